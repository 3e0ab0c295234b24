"""The Python side of the bench: reads `add` or `multiply` and a number, answers with seconds."""

import itertools
import sys
import time

import mlx.core as mx


def add(a, b, count):
    start = time.perf_counter()
    for _ in itertools.repeat(None, count):
        a + b
    return time.perf_counter() - start


def multiply(a, b, count):
    start = time.perf_counter()
    for _ in itertools.repeat(None, count):
        a * b
    return time.perf_counter() - start


mx.set_default_device(mx.cpu)
a, b = mx.ones(4), mx.ones(4)
mx.eval(a, b)
for line in sys.stdin:
    name, count = line.split()
    record = {"add": add, "multiply": multiply}[name]
    record(a, b, 200)
    print(record(a, b, int(count)), flush=True)
