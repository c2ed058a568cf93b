"""llama.cpp's own HTTP server as a process, from the package xllamacpp: llama_server.py MODEL.gguf PORT CLIENTS."""
import sys
import time

import xllamacpp


def main():
    model, port, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.port = port
    parameters.n_parallel = clients  # every client has a slot, as every stream has with us
    parameters.n_ctx = 1024 * clients
    parameters.cpuparams.n_threads = 2
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
