"""Mistakes that writers of long jobs make, to be put into ours: the fault tests must notice each."""

import contextlib
import itertools
import json
import os
import time

import seams

BUGS = {}


def bug(function):
    BUGS[function.__name__] = function
    return function


def install(name):
    if name:
        BUGS[name]()


def _write_in_place(path, data, sync=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for part in (data,) if isinstance(data, bytes) else data:
            file.write(part)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@bug
def writes_in_place():
    """No temporary file and no rename."""
    seams.ATOMIC_WRITE.replace(_write_in_place)
    # As trusting as a writer that believes in its files.
    seams.READ_SHARD.replace(_trusting)


def _trusting(folder, shard):
    path = seams.record_file(folder, shard)
    if not path.exists():
        return None
    values = json.loads(path.read_bytes())
    del values["sha256"]
    return seams.ShardRecord.from_json(values)


@bug
def marks_too_early():
    """The completion file before the rows that it vouches for."""

    def early(commit, out, plan, shard, sources, *made):
        seams.WRITE_SHARD(out, seams.ShardRecord(shard, plan.fingerprint, inputs=len(sources)))
        return commit(out, plan, shard, sources, *made)

    seams.COMMIT.wrap(early)


@bug
def swallows_errors_of_writing():
    """A full disk is a warning."""

    def quiet(write, path, data):
        with contextlib.suppress(OSError):
            write(path, data)

    seams.ATOMIC_WRITE.wrap(quiet)


@bug
def does_not_sync():
    """Renames what may not be on disk yet."""

    def write(path, data):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _write_in_place(temporary, data, sync=False)
        os.replace(temporary, path)

    seams.ATOMIC_WRITE.replace(write)


@bug
def appends_to_the_quarantine():
    """A shard that is made again adds to what was set aside."""

    def append(out, shard, records):
        path = out / seams.quarantine_file(shard)
        old = path.read_bytes() if path.exists() else b""
        data = old + "".join(json.dumps(record) + "\n" for record in records).encode()
        seams.ATOMIC_WRITE(path, data)
        return seams.FileMark.of(data)

    seams.WRITE_QUARANTINE.replace(append)


@bug
def says_finished_first():
    """The mark of the end before card and report."""

    def first(finish, out, plan, write):
        if not seams.missing_shards(out, plan) and not seams.is_finished(out, plan.fingerprint):
            totals = seams.Totals.of(seams.shard_records(out), plan.configuration.types)
            names = ("inputs", "images", "duplicates", "skipped")
            counts = {name: count for name, count in totals.counts_by_name().items() if name in names}
            seams.write_finished(out, plan, {**counts, "rows": totals.rows, "set_aside": totals.set_aside})
            write()
            seams.SWEEP(out)
            return True
        return finish(out, plan, write)

    seams.FINISH.wrap(first)


@bug
def leaves_shards_out_after_an_error():
    """A shard that could not be written is left out, and the job ends well."""

    def lenient(commit, out, plan, shard, sources, *made):
        try:
            return commit(out, plan, shard, sources, *made)
        except OSError:
            return seams.WRITE_SHARD(out, seams.ShardRecord(shard, plan.fingerprint, inputs=len(sources)))

    seams.COMMIT.wrap(lenient)


@bug
def counts_rows_of_the_process():
    """What is written depends on what the process wrote before."""
    counter = itertools.count()

    def counted(finish_row, item, row):
        return {**finish_row(item, row), "turn": next(counter)}

    seams.FINISH_ROW.wrap(counted)


@bug
def names_files_after_the_process():
    """Rows of a shard that is made again lie beside the first ones."""
    seams.ROWS_FILE.replace(lambda kind, shard: f"{kind}/train-{shard:05d}-{os.getpid()}.parquet")


@bug
def leaves_unfinished_files():
    """What a killed write left behind stays."""
    seams.SWEEP.replace(lambda out: None)


@bug
def writes_the_time_down():
    """A card that is never the same."""

    def dated(write_card, out, facts, *, write):
        return write_card(out, facts, write=lambda path, data: write(path, data + f"{time.time_ns()}\n".encode()))

    seams.WRITE_CARD.wrap(dated)


@bug
def trusts_torn_records():
    """Whatever lies at a record's place means that the shard is done, and it is not written atomically."""

    def direct(out, record):
        _write_in_place(seams.record_file(out, record.shard), json.dumps(record.to_json()).encode())

    seams.WRITE_SHARD.replace(direct)
    seams.IS_DONE.replace(lambda out, plan, shard: seams.record_file(out, shard).exists())


@bug
def trusts_torn_hashes():
    """Hashes are written in place, and what a piece lacks is taken for pictures without one."""

    def direct(write, path, data):
        if seams.HASHES not in path.as_posix():
            return write(path, data)
        return _write_in_place(path, data, sync=False)

    def kept(path, of, keys, looks):
        found = {}
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            with contextlib.suppress(ValueError):
                key, *pair = json.loads(line)
                found[str(key)] = tuple(pair)
        return [found.get(str(key), (None, None)) for key in keys] if path.exists() else None

    seams.ATOMIC_WRITE.wrap(direct)
    seams.KEPT_HASHES.replace(kept)


@bug
def locks_nothing():
    """Every writer believes to be alone."""

    @contextlib.contextmanager
    def hold(out, name, *, wait=False):
        yield True

    seams.HOLD.replace(hold)


@bug
def takes_the_first_plan():
    """The plan before the list of inputs, and a list that is there is taken as whole."""

    def early(complete_plan, out, plan, selection, *, write):
        done = complete_plan(out, plan, selection, write=False)
        if write:
            seams.write_plan(out, done)
            path = out / seams.INPUTS
            with path.open("wb") as file:
                for line in seams.input_lines(selection, out):
                    file.write(line)
        return done

    seams.COMPLETE_PLAN.wrap(early)
    seams.IS_LISTED.replace(lambda out, plan, selection: True)
