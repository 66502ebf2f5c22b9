"""A Python framework as a contestant of ../PROTOCOL.md.

usage: contestant.py NAME --threads N
"""

import argparse
import ctypes
import gc
import importlib
import json
import math
import os
import sys
import time
from pathlib import Path

MODULES = {
    "numpy": "numpy_works",
    "numpy64": "numpy_works",
    "torch-eager": "torch_works",
    "torch-fused": "torch_works",
    "torch-channels-last": "torch_works",
    "torch-compile": "torch_works",
    "tensorflow": "tensorflow_works",
    "tensorflow-xla": "tensorflow_works",
    "jax": "jax_works",
}

WORKS = {
    "gemm",
    "linear_relu",
    "softmax",
    "softmax_cross_entropy",
    "relu",
    "exp",
    "momentum",
    "adam",
    "conv2d",
    "conv2d_backward",
    "relu_batch_norm",
    "relu_batch_norm_backward",
    "max_pool",
    "max_pool_backward",
    "avg_pool",
    "conv_block",
    "mlp_epoch",
    "cnn_step",
}

SHORT = 50e-6
"""A work shorter than these seconds is timed in batches."""


def set_environment(threads: int) -> None:
    """Limits the threads of every framework. They look only once, so this comes before their import."""
    count = str(threads)
    os.environ.update(
        OMP_NUM_THREADS=count,
        MKL_NUM_THREADS=count,
        OPENBLAS_NUM_THREADS=count,
        TF_NUM_INTRAOP_THREADS=count,
        TF_NUM_INTEROP_THREADS="1",
        # XLA sizes its pool by these as if the machine had so many cores.
        NPROC=count,
        PJRT_NPROC=count,
        XLA_FLAGS=f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={count}",
        # No pool of compiling processes beside us.
        TORCHINDUCTOR_COMPILE_THREADS="1",
        TF_CPP_MIN_LOG_LEVEL="2",
        CUDA_VISIBLE_DEVICES="",
        JAX_PLATFORMS="cpu",
    )


def keep_freed_memory() -> None:
    """Has glibc's allocator reuse what is freed instead of handing it back to the system and asking for it anew.

    A fresh page costs more than most works do with it. PyTorch's tuning guide advises another allocator for that, and
    a library that allocates each result should not lose by it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        # Never trim, never map, and one arena for all threads: those of other threads are mapped.
        trim_threshold, mmap_max, arena_max = -1, -4, -8
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)
        mallopt(arena_max, 1)


class Inputs:
    """The arrays of a folder, each loaded when it is asked for."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __getitem__(self, name: str):
        import numpy

        return numpy.load(self.folder / f"{name}.npy")


def save(arrays: dict, folder: str) -> None:
    """Writes float32, row-major; a scalar as an array of length 1."""
    import numpy

    for name, array in arrays.items():
        array = numpy.ascontiguousarray(array, dtype=numpy.float32)
        numpy.save(Path(folder) / f"{name}.npy", numpy.atleast_1d(array))


def times(run, seconds: float) -> list[float]:
    """Runs again and again for `seconds`; the time of each run, or of each batch's mean run if runs are short."""
    clock = time.perf_counter
    end = clock() + seconds
    batch, measured = 1, []
    gc.collect()
    gc.disable()
    try:
        while True:
            start = clock()
            for _ in range(batch):
                run()
            stop = clock()
            each = (stop - start) / batch
            if batch == 1 and each < SHORT:
                # Only tells how long a batch to take.
                batch = max(2, math.ceil(SHORT / max(each, 1e-9)))
                continue
            measured.append(each)
            if stop >= end:
                return measured
    finally:
        gc.enable()


class Contestant:
    """Answers requests with the works of one framework."""

    def __init__(self, name: str, threads: int) -> None:
        self.works = importlib.import_module(MODULES[name]).Works(name, threads)
        self.work = None

    def prepare(self, work: str, spec: dict, inputs: str, outputs: str) -> dict:
        # The last work's arrays go before the next one's come.
        self.work = None
        gc.collect()
        if work not in WORKS:
            return {"unsupported": f"There is no work {work} here."}
        if reason := self.works.unsupported(work):
            return {"unsupported": reason}
        prepared = getattr(self.works, work)(spec, Inputs(inputs))
        save(prepared.outputs(prepared.run()), outputs)
        self.work = prepared
        return {"ready": {}}

    def run(self, seconds: float) -> dict:
        if self.work is None:
            return {"error": "nothing is prepared"}
        return {"times": times(self.work.run, seconds)}

    def version(self) -> dict:
        return {"version": self.works.version()}

    def answer(self, line: str) -> dict:
        try:
            ((request, arguments),) = json.loads(line).items()
            if request not in ("prepare", "run", "version"):
                return {"error": f"no request {request}"}
            return getattr(self, request)(**arguments)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODULES)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    # Answers keep the real standard output; what libraries print, in C too, goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    set_environment(arguments.threads)
    keep_freed_memory()
    try:
        contestant = Contestant(arguments.name, arguments.threads)
    except Exception as error:
        # Not installed, say: every request is answered so.
        message = {"error": f"{type(error).__name__}: {error}"}
        for _ in sys.stdin:
            print(json.dumps(message), file=answers)
        return
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(contestant.answer(line)), file=answers)


if __name__ == "__main__":
    main()
