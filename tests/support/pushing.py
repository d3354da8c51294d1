"""Run by test_push.py in a process whose Hub is the one of the tests: pushes on request, each in a fork of its own.

Reads a line of JSON per push and answers with the process that will do it; after another line it starts, and its result
is the next line. Whatever it waits for is written down instead of waited for.
"""

import json
import os
import sys
import time
from pathlib import Path

from vigc.custom_generate.folder import travelling_code
from vigc.errors import VigcError
from vigc.hub import push_folder


def push_model(folder, repo):
    """`model.push_to_hub`, of a model that was loaded from a folder."""
    from vigc import VigcForConditionalGeneration

    VigcForConditionalGeneration.from_pretrained(folder).push_to_hub(repo, private=True)
    return {"exit_code": 0}


def push_trainer(folder, repo, images, output, final_weights="whole"):
    """`trainer.push_to_hub` after a short training; of trained weights alone, whether they load by the Hub's name."""
    from training import digest, make_trainer

    from vigc.trainer import load_trained

    settings = {"max_steps": 1, "hub_model_id": repo, "final_weights": final_weights}
    trainer = make_trainer(folder, images, output, evaluated=False, **settings)
    trainer.train()
    done = trainer.push_to_hub()
    result = {"exit_code": 0, "files": done.files, "private": done.private, "left": list(done.left)}
    if final_weights == "trained":
        model, _ = load_trained(repo, base=folder)
        result["same"] = digest(model.named_parameters()) == digest(trainer.model.named_parameters())
    return result


def push_training(folder, repo, recipe):
    """`vigc train` with push_to_hub."""
    from typer.testing import CliRunner

    from vigc.cli.root import app

    options = ["--model", folder, "--push_to_hub", "true", "--hub_model_id", repo]
    done = CliRunner().invoke(app, ["train", recipe, *options])
    return {"exit_code": done.exit_code, "output": done.output}


def push_command(folder, repo, options=()):
    """`vigc push` with what it prints."""
    from typer.testing import CliRunner

    from vigc.cli.root import app

    done = CliRunner().invoke(app, ["push", folder, repo, *options])
    return {"exit_code": done.exit_code, "stdout": done.stdout, "stderr": done.stderr}


def push(folder, repo, how="folder", **given):
    if how != "folder":
        ways = {"model": push_model, "trainer": push_trainer, "training": push_training, "command": push_command}
        return ways[how](folder, repo, **given)
    slept, said = [], []
    time.sleep = slept.append
    try:
        done = push_folder(Path(folder), repo, say=said.append, code=travelling_code, **given)
        result = {"uploaded": done.uploaded, "removed": done.removed, "files": done.files, "exit_code": 0}
        result |= {"repo": done.repo_id, "private": done.private, "left": list(done.left), "commit": done.commit}
    except VigcError as error:
        result = {"error": str(error), "exit_code": error.exit_code}
    return {**result, "slept": slept, "said": said}


def main():
    for line in sys.stdin:
        order = json.loads(line)
        start, go = os.pipe()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is printed on the way is no answer
            os.read(start, 1)
            os.write(write, json.dumps(push(**order)).encode())
            os._exit(0)
        os.close(write)
        print(json.dumps(pid), flush=True)
        sys.stdin.readline()
        os.write(go, b"!")
        with open(read, "rb") as results:
            result = results.read()
        _, status = os.waitpid(pid, 0)
        os.close(start)
        os.close(go)
        print(json.dumps(json.loads(result) if result else {"killed": os.WTERMSIG(status)}), flush=True)
    os._exit(0)  # unloading all that was imported takes seconds


if __name__ == "__main__":
    main()
