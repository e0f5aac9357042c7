#!/usr/bin/env python3
"""Serve a GGUF with llama.cpp's own HTTP server (from the wheel xllamacpp), until SIGTERM or SIGINT.

  llama_serve.py MODEL.gguf [--port 0] [--alias NAME] [--parallel 4] [--ctx 8192] [--threads 1] [--api-key K] [--port-file F]

Prints one line, 'listening http://127.0.0.1:PORT ...', once the model is loaded.
"""
import argparse
import os
import signal
import threading
import time

import xllamacpp


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--alias")
    p.add_argument("--parallel", type=int, default=4, help="slots")
    p.add_argument("--ctx", type=int, default=8192, help="total, shared out over the slots unless --kv-unified")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--http-threads", type=int, default=-1)
    p.add_argument("--api-key", action="append", default=[])
    p.add_argument("--verbosity", type=int, default=1)
    p.add_argument("--kv-unified", action="store_true")
    p.add_argument("--no-slots", action="store_true", help="no GET /slots")
    p.add_argument("--no-metrics", action="store_true", help="no GET /metrics")
    p.add_argument("--cache-ram", type=int, default=0, help="MiB")
    p.add_argument("--port-file", help="the address is also written here")
    return p.parse_args()


def parameters(a):
    c = xllamacpp.CommonParams()
    c.model.path = a.model
    c.hostnames = ["127.0.0.1"]
    c.port = a.port
    c.n_ctx = a.ctx
    c.n_parallel = a.parallel
    c.kv_unified = a.kv_unified
    c.n_threads_http = a.http_threads
    c.cpuparams.n_threads = a.threads
    c.cpuparams_batch.n_threads = a.threads
    c.endpoint_metrics = not a.no_metrics
    c.endpoint_slots = not a.no_slots
    c.endpoint_props = True
    c.verbosity = a.verbosity
    c.cache_ram_mib = a.cache_ram
    c.fit_params = False
    if a.alias:
        c.model_alias = {a.alias}
    if a.api_key:
        c.api_keys = a.api_key
    return c


def main():
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    a = arguments()
    started = time.monotonic()
    server = xllamacpp.Server(parameters(a))
    address = str(server.listening_address)
    if a.port_file:
        with open(a.port_file, "w") as f:
            f.write(address)
    print(f"listening {address} after {time.monotonic() - started:.2f} s, pid {os.getpid()}", flush=True)
    stop.wait()
    del server


if __name__ == "__main__":
    main()
