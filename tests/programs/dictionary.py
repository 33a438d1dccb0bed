"""Subject program for a stock python3: builds a dictionary, verifies it when told to."""

import sys

COUNT = 300_000


def value(key):
    return {"name": f"customer {key * 2654435761 % 4294967296:x}", "orders": [key, key + 1], "open": key % 3 == 0}


def answer(line):
    print(line, flush=True)


def verify(table):
    for key in range(COUNT):
        if table.get(f"key {key}") != value(key):
            return f"WRONG value of key {key}"
    return f"ok {len(table)}" if len(table) == COUNT else "WRONG number of keys"


table = {f"key {key}": value(key) for key in range(COUNT)}
answer("ready")
for command in sys.stdin:
    if command.strip() == "verify":
        answer(verify(table))
    elif command.strip() == "rebuild":
        table = {f"key {key}": value(key) for key in range(COUNT)}
        answer("ok")
