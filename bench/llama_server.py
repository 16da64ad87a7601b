"""llama.cpp's HTTP server, through xllamacpp: prints its address and serves until its input is closed.

python bench/llama_server.py '{"model": PATH, "slots": 8, "context": 1024, "threads": 2}'
"""

from __future__ import annotations

import json
import sys

import xllamacpp


def main() -> None:
    """Serve."""
    setup = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = setup["model"]
    params.n_ctx = setup["slots"] * setup["context"]
    params.n_parallel = setup["slots"]
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup["threads"]
    params.verbosity = -1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
