"""llama.cpp's own HTTP server as a process, from the package xllamacpp.

llama_server.py MODEL.gguf PORT CLIENTS TOKENS THREADS: every client has a slot with so many tokens of context.
"""
import sys
import time

import xllamacpp


def main():
    port, clients, tokens, threads = map(int, sys.argv[2:])
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.port = port
    parameters.n_parallel = clients  # every client has a slot, as every stream has with us
    parameters.n_ctx = tokens * clients
    parameters.cpuparams.n_threads = threads
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
