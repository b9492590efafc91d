"""A client for the server: `Client` and `AsyncClient` for programs, `maskserve predict` for the shell.

with Client("http://127.0.0.1:8000") as client:
    found = client.predict("cells.png", score_threshold=0.5)
    masks = found.masks_array()  # bool [N, H, W]
"""

from service.client.calls import Answer, MaskForm, PredictOptions
from service.client.client import AsyncClient, Client
from service.client.errors import (
    ClientError,
    ConnectionLostError,
    ServerProblem,
    TimedOutError,
    UnreachableError,
    UnreadableFileError,
)
from service.client.planes import PlaneAnswer
from service.client.prediction import AppliedIntensity, Prediction, TakenChannel

__all__ = [
    "Answer",
    "AppliedIntensity",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionLostError",
    "MaskForm",
    "PlaneAnswer",
    "PredictOptions",
    "Prediction",
    "ServerProblem",
    "TakenChannel",
    "TimedOutError",
    "UnreachableError",
    "UnreadableFileError",
]
