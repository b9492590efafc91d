"""Libraries of CUDA's names without CUDA, compiled from a few lines of C: memory is the host's, kernels do nothing.

What ONNX Runtime's own CUDA library asks of them is read from it, so that a new release that asks for more gets it.
"""

from __future__ import annotations

import mmap
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import onnxruntime

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"

NEEDED_TOOLS = ("cc", "nm")

COMMON = "#include <stdlib.h>\n#include <string.h>\ntypedef void *P; typedef size_t S;\n"

DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = 1000 * MAJOR; return 0; }
int cuTensorMapEncodeTiled(void) { return 0; }
"""
RUNTIME = """
int cudaGetDeviceCount(int *count) { *count = 1; return NO_DEVICE; }
int cudaSetDevice(int device) { return NO_DEVICE; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceProperties(char *all, int device) {  /* as CUDA 13 lays them out */
    memset(all, 0, 700);
    *(S *)(all + 288) = (S)8 << 30; *(S *)(all + 296) = 49152;
    *(int *)(all + 308) = 32; *(int *)(all + 320) = 1024;
    *(int *)(all + 360) = 8; *(int *)(all + 384) = 100; *(int *)(all + 388) = 100;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int which, int device) { *value = 100; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 1000 * MAJOR; return 0; }
int cudaDriverGetVersion(int *version) { *version = 1000 * MAJOR; return 0; }
int cudaMemGetInfo(S *free, S *total) { *free = *total = (S)8 << 30; return 0; }
int cudaMalloc(P *p, S n) { *p = calloc(1, n + 256); return 0; }
int cudaMallocHost(P *p, S n) { return cudaMalloc(p, n); }
int cudaHostAlloc(P *p, S n, unsigned flags) { return cudaMalloc(p, n); }
int cudaMallocFromPoolAsync(P *p, S n, P pool, P stream) { return cudaMalloc(p, n); }
int cudaFree(P p) { free(p); return 0; }
int cudaFreeAsync(P p, P stream) { free(p); return 0; }
int cudaFreeHost(P p) { free(p); return 0; }
int cudaMemcpy(P to, P from, S n, int kind) { memcpy(to, from, n); return 0; }
int cudaMemcpyAsync(P to, P from, S n, int kind, P stream) { memcpy(to, from, n); return 0; }
int cudaMemset(P p, int value, S n) { memset(p, value, n); return 0; }
int cudaMemsetAsync(P p, int value, S n, P stream) { memset(p, value, n); return 0; }
static int something;
int cudaStreamCreate(P *p) { *p = &something; return 0; }
int cudaStreamCreateWithFlags(P *p, unsigned flags) { *p = &something; return 0; }
int cudaStreamIsCapturing(P stream, int *status) { *status = 0; return 0; }
int cudaEventCreate(P *p) { *p = &something; return 0; }
int cudaEventCreateWithFlags(P *p, unsigned flags) { *p = &something; return 0; }
int cudaPointerGetAttributes(char *all, P p) { memset(all, 0, 24); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 1; return 0; }
char *cudaGetErrorName(int error) { return "stub"; }
char *cudaGetErrorString(int error) { return "a stub"; }
P *__cudaRegisterFatBinary(P binary) { static P handle; return &handle; }
"""
BLAS = """
static int something;
int cublasCreate_v2(P *p) { *p = &something; return 0; }
int cublasGetMathMode(P handle, int *mode) { *mode = 0; return 0; }
char *cublasGetStatusName(int status) { return "stub"; }
char *cublasGetStatusString(int status) { return "a stub"; }
"""
BLAS_LT = """
static int something;
int cublasLtCreate(P *p) { *p = &something; return 0; }
"""
CUDNN = """
static int something;
S cudnnGetVersion(void) { return 91000; }
S cudnnGetCudartVersion(void) { return 1000 * MAJOR; }
char *cudnnGetErrorString(int status) { return "a stub"; }
void cudnnGetLastErrorString(char *text, S size) { if (size) *text = 0; }
int cudnnCreate(P *p) { *p = &something; return 0; }
int cudnnDestroy(P p) { return 0; }
int cudnnSetStream(P p, P stream) { return 0; }
int cudnnBackendCreateDescriptor(int type, P *p) { *p = 0; return 3000; }
"""


def why_not() -> str:
    """Why there can be no stubs here; empty where there can."""
    if not PROVIDER.is_file():
        return "needs onnxruntime-gpu"
    missing = [tool for tool in NEEDED_TOOLS if shutil.which(tool) is None]
    return f"needs a C compiler ({', '.join(missing)})" if missing else ""


def build(folder: Path, major: str, *, no_device: bool = False) -> None:
    """Compiles all that ONNX Runtime's CUDA library is linked to, and cuDNN, whose every convolution fails.

    major: of CUDA. no_device: the runtime says that there is none, whatever the driver says.
    """
    wanted = _wanted()
    sources = {
        "libcuda.so.1": DRIVER,
        f"libcudart.so.{major}": RUNTIME,
        f"libcublas.so.{major}": BLAS,
        f"libcublasLt.so.{major}": BLAS_LT,
        "libcurand.so.10": "",
        "libcudnn.so.9": CUDNN,
    }
    for library, source in sources.items():
        known = set(re.findall(r"(\w+)\(", source))
        rest = "".join(f"long {name}(void) {{ return 0; }}\n" for name in sorted(wanted[library] - known))
        script = folder / "script"
        script.write_text(f"{library} {{ global: *; }};")
        flags = ["-shared", "-fPIC", "-w", f"-DMAJOR={major}", f"-DNO_DEVICE={100 * no_device}"]
        versions = [f"-Wl,--version-script={script}", f"-Wl,-soname,{library}"]
        command = ["cc", *flags, "-x", "c", "-", "-o", str(folder / library), *versions]
        subprocess.run(command, input=COMMON + source + rest, text=True, check=True)


def _wanted() -> defaultdict[str, set[str]]:
    """Library -> the functions that are asked of it by its name."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", PROVIDER], capture_output=True, text=True, check=True)
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for name, library in re.findall(r"U (\w+)@(libcu\S+)", listed.stdout):
        wanted[library].add(name)
    # cuDNN is no library that it is linked to: it looks these up when it starts.
    with PROVIDER.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        wanted["libcudnn.so.9"] = {name.decode() for name in re.findall(rb"\0(cudnn[A-Z][A-Za-z]+)(?=\0)", content)}
    return wanted
