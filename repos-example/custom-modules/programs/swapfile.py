#!/usr/bin/env python3
"""Keeps a file that can be swapped to: its size, its mode, its signature."""

import json
import os
import subprocess
import sys

request = json.load(sys.stdin)


def is_right(path, size):
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            file.seek(4086)
            return stat.st_size == size and stat.st_mode & 0o777 == 0o600 and file.read(10) == b"SWAPSPACE2"
    except FileNotFoundError:
        return False


if request["operation"] == "describe":
    answer = {"params": {"path": {"required": True}, "sizeMiB": {"required": True}}}
else:
    path = request["root"].rstrip("/") + request["params"]["path"]
    size = request["params"]["sizeMiB"] << 20
    right = is_right(path, size)
    if request["operation"] == "check":
        diff = f"{request['params']['path']} becomes a swap file of {size} bytes"
        answer = {"inSync": right, "diff": diff, "data": {"bytes": size}}
    else:
        if not right:
            with open(path, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                os.posix_fallocate(file.fileno(), 0, size)
            subprocess.run(["/sbin/mkswap", path], check=True, stdout=subprocess.DEVNULL)
        answer = {"changed": not right, "data": {"bytes": size}}
json.dump(answer, sys.stdout)
