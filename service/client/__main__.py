"""Predicts images from the shell.

maskserve predict cell.png                                        # a JSON line on stdout
maskserve predict images 'more/**/*.tif' --output results.jsonl --overlay drawn
maskserve predict images --format coco --output results.json --coco-images images.json
maskserve predict --help                                          # every option, the formats, the exit codes
"""

import sys

from model.console.running import interruptible
from service.client.command.main import main

if __name__ == "__main__":
    sys.exit(interruptible(main))
