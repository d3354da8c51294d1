"""Mistakes that writers of long jobs make, to be put into ours: the fault tests must notice each."""

import contextlib
import itertools
import json
import os
import time

from vigc.generation import finalize as finish
from vigc.generation.filters import hashing
from vigc.generation.rollouts import worker
from vigc.jobs import ledger, locks, resume, settle, shards
from vigc.jobs import output_folder as folder
from vigc.jobs.counts import Totals

BUGS = {}


def bug(function):
    BUGS[function.__name__] = function
    return function


def install(name):
    if name:
        BUGS[name]()


@bug
def writes_in_place():
    """No temporary file and no rename."""

    def write(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())

    ledger.atomic_write = write
    # As trusting as a writer that believes in its files.
    ledger.read_shard = _trusting


def _trusting(folder, shard):
    path = folder / ledger.SHARDS / f"{shard:05d}.json"
    if not path.exists():
        return None
    values = json.loads(path.read_bytes())
    del values["sha256"]
    return ledger.ShardRecord.from_json(values)


@bug
def marks_too_early():
    """The completion file before the rows that it vouches for."""
    commit, write_shard = shards.commit, ledger.write_shard

    def early(out, plan, shard, sources, output, schema):
        write_shard(out, ledger.ShardRecord(shard, plan.fingerprint, inputs=len(sources)))
        return commit(out, plan, shard, sources, output, schema)

    resume.commit = early


@bug
def swallows_errors_of_writing():
    """A full disk is a warning."""
    write = ledger.atomic_write

    def quiet(path, data):
        with contextlib.suppress(OSError):
            write(path, data)

    ledger.atomic_write = quiet


@bug
def does_not_sync():
    """Renames what may not be on disk yet."""
    fsync = os.fsync

    def write(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
        os.replace(temporary, path)

    assert fsync
    ledger.atomic_write = write


@bug
def appends_to_the_quarantine():
    """A shard that is made again adds to what was set aside."""

    def append(out, shard, records):
        path = out / ledger.quarantine_file(shard)
        old = path.read_bytes() if path.exists() else b""
        data = old + "".join(json.dumps(record) + "\n" for record in records).encode()
        ledger.atomic_write(path, data)
        return ledger.FileMark.of(data)

    ledger.write_quarantine = append


@bug
def says_finished_first():
    """The mark of the end before card and report."""
    original = resume.finish

    def first(out, plan, write):
        if not resume.missing_shards(out, plan) and not ledger.is_finished(out, plan.fingerprint):
            totals = Totals.of(ledger.shard_records(out), plan.configuration.types)
            names = ("inputs", "images", "duplicates", "skipped")
            counts = {name: count for name, count in totals.counts_by_name().items() if name in names}
            ledger.write_finished(out, plan, {**counts, "rows": totals.rows, "set_aside": totals.set_aside})
            write()
            folder.sweep(out)
            return True
        return original(out, plan, write)

    resume.finish = first


@bug
def leaves_shards_out_after_an_error():
    """A shard that could not be written is left out, and the job ends well."""
    commit = resume.commit

    def lenient(out, plan, shard, sources, output, schema):
        try:
            return commit(out, plan, shard, sources, output, schema)
        except OSError:
            return ledger.write_shard(out, ledger.ShardRecord(shard, plan.fingerprint, inputs=len(sources)))

    resume.commit = lenient


@bug
def counts_rows_of_the_process():
    """What is written depends on what the process wrote before."""
    counter = itertools.count()
    finish_row = worker.finish_row

    def counted(item, row):
        row = finish_row(item, row)
        return {**row, "turn": next(counter)}

    worker.finish_row = counted


@bug
def names_files_after_the_process():
    """Rows of a shard that is made again lie beside the first ones."""
    ledger.rows_file = lambda kind, shard: f"{kind}/train-{shard:05d}-{os.getpid()}.parquet"


@bug
def leaves_unfinished_files():
    """What a killed write left behind stays."""
    resume.sweep = lambda out: None


@bug
def writes_the_time_down():
    """A card that is never the same."""
    original = finish.write_dataset_card

    def dated(out, facts, *, write):
        return original(out, facts, write=lambda path, data: write(path, data + f"{time.time_ns()}\n".encode()))

    finish.write_dataset_card = dated


@bug
def trusts_torn_records():
    """Whatever lies at a record's place means that the shard is done, and it is not written atomically."""
    write = ledger.atomic_write

    def direct(out, record):
        path = out / ledger.SHARDS / f"{record.shard:05d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(json.dumps(record.to_json()).encode())
            file.flush()
            os.fsync(file.fileno())

    assert write
    ledger.write_shard = direct
    resume._is_done = lambda out, plan, shard: (out / ledger.SHARDS / f"{shard:05d}.json").exists()


@bug
def trusts_torn_hashes():
    """Hashes are written in place, and what a piece lacks is taken for pictures without one."""
    write = ledger.atomic_write

    def direct(path, data):
        if ledger.HASHES not in path.as_posix():
            return write(path, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)

    def kept(path, of, keys, looks):
        found = {}
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            with contextlib.suppress(ValueError):
                key, *pair = json.loads(line)
                found[str(key)] = tuple(pair)
        return [found.get(str(key), (None, None)) for key in keys] if path.exists() else None

    ledger.atomic_write, hashing._kept = direct, kept


@bug
def locks_nothing():
    """Every writer believes to be alone."""

    @contextlib.contextmanager
    def hold(out, name, *, wait=False):
        yield True

    locks.hold = hold


@bug
def takes_the_first_plan():
    """The plan before the list of inputs, and a list that is there is taken as whole."""
    original = settle.complete_plan

    def early(out, plan, selection, *, write):
        done = original(out, plan, selection, write=False)
        if write:
            ledger.write_plan(out, done)
            path = out / ledger.INPUTS
            with path.open("wb") as file:
                for line in settle._lines(selection, out):
                    file.write(line)
        return done

    settle.complete_plan = early
    settle._is_listed = lambda out, plan, selection: True
