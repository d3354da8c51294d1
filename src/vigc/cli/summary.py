"""Prints the summary of a job, or its preview."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from .terminal import count, line, say

if TYPE_CHECKING:
    from vigc.generation import Estimate, Preview, Summary
    from vigc.jobs import ShardOutput
    from vigc.jobs.plan import Uncompared
    from vigc.jobs.protocols import Record
    from vigc.jobs.verify import Inspection


def print_summary(summary: Summary) -> None:
    """Prints counts, skipped inputs, rejected samples, example rows and the paths."""
    if summary.idle:
        say("Nothing to do: this job is finished. The folder has:")
    elif summary.resumed:
        say("Resumed an existing job. The folder now has:")
    _print_inspection(summary.inspection)
    _print_notice(summary.notice)
    work = f"{count(summary.rows, 'row')} from {count(summary.images, 'image')}"
    edited = f", {count(summary.changed, 'answer')} edited" if summary.compared else ""
    say(f"{work}{_took(summary)}{edited}")
    for task, counts in summary.types.items():
        rejected = f", {count(counts.malformed, 'sample')} rejected" if counts.malformed else ""
        words = f" ({counts.words_out:,} words out, {counts.words_in:,} in)" if counts.changed else ""
        edits = f", {counts.changed} edited{words}" if summary.compared else ""
        say(f"  {task:<14}{counts.rows:>6} rows{edits}{rejected}")
    for what, number in (
        *summary.labelled(),
        *((f"excluded: {reason}", number) for reason, number in summary.excluded.items()),
        *summary.unlisted.items(),
    ):
        if number:
            say(f"  {number:,} {line(what)}")
    _print_uncompared(summary.uncompared)
    _print_reasons([f"{path} {reason}" for path, reason in summary.skipped], "Skipped", summary.skipped_inputs, "file")
    reasons = [f"{path}, {task}: {reason}" for path, task, reason in summary.malformed]
    _print_reasons(reasons, "Rejected", summary.rejected, "sample")
    for row in _samples(summary):
        say(f"\n{row['type']}, {line(row['image_id'])}")
        for name in ("question", "draft", "answer"):
            if row[name] is not None:  # rows may have no draft
                say(f"  {name:<10}{line(row[name])}")
    if summary.missing:
        say(f"\nDataset: {summary.output}, {count(summary.missing, 'shard')} still to be written by other ranks")
        return
    say(f"\nDataset: {summary.output}\nReport:  {summary.report}")


def _took(summary: Summary) -> str:
    """The time of this run, and the number of its rows if earlier runs or other processes wrote some."""
    from vigc.jobs.progress import duration

    if summary.idle:
        return ""
    took = f"{summary.seconds:.1f} s" if summary.seconds < 100 else duration(summary.seconds)
    if summary.rows_made == summary.rows:
        return f" in {took}"
    return f" ({summary.rows_made:,} of them by this run, in {took})"


def _print_inspection(found: Inspection, repaired: str = "written again") -> None:
    """Prints missing and damaged files of a folder."""
    if found.damaged:
        say(f"Missing or damaged, and {repaired}, {count(len(found.damaged), 'file')}:")
        for damage in found.damaged[:10]:
            say(f"  {line(damage.name)} {damage.fault}")
        if len(found.damaged) > 10:
            say(f"  and {len(found.damaged) - 10:,} more")
    elif found.content:
        say(f"Verified: {count(found.compared, 'file')}, all unchanged.")
    if found.unhashed:
        say(f"  {count(found.unhashed, 'file')} of an older version without a recorded hash: only sizes were compared")


def _print_notice(notice: str | None) -> None:
    if notice:
        say(fill(f"Notice: {line(notice)}", 110))


def _print_uncompared(folders: dict[str, Uncompared]) -> None:
    for folder, files in folders.items():
        more = " and others" if files["count"] > len(files["first"]) else ""
        what = f"{count(files['count'], 'file')} in {folder} could not be read, so no image was compared with them"
        say(f"  {line(what)}: {line(', '.join(files['first']))}{more}")


def _print_reasons(lines: list[str], heading: str, number: int, what: str) -> None:
    if not number:
        return
    say(f"{heading}, {count(number, what)}:")
    for text in lines[:5]:
        say(f"  {line(text)}")
    if number > 5:
        say(f"  and {number - 5} more, listed in quarantine/")


def _samples(summary: Summary) -> list[Record]:
    """Three rows, of different task types if possible."""
    rounds = [rows[turn] for turn in range(3) for rows in summary.samples.values() if turn < len(rows)]
    return rounds[:3]


def print_preview(preview: Preview) -> None:
    """Prints inputs and exclusions, example rows, and estimates of time and disk space."""
    say(f"Dry run: nothing is written to {preview.output}.")
    _print_inspection(preview.inspection, "to be written again")
    _print_notice(preview.plan.notice)
    _print_inputs(preview)
    _print_state(preview)
    if preview.sample is not None:
        _print_rows(preview, preview.sample)
    if preview.estimate is not None:
        _print_estimate(preview, preview.estimate)


def _print_inputs(preview: Preview) -> None:
    plan, inputs = preview.plan, preview.plan.inputs
    say("\nInputs")
    _number(inputs.listed, f"listed in {plan.source}")
    for reason, number in inputs.excluded.items():
        _number(number, f"excluded: {reason}")
    for what, number in preview.unlisted.items():
        _number(number, what)
    _print_uncompared(inputs.uncompared)
    _number(inputs.copies, "exact duplicates of another image")
    if preview.looks is not None:
        for reason, number in preview.looks.items():
            share = number / preview.looked_at
            _number(round(share * inputs.taken), f"estimated: {reason} ({number} of {preview.looked_at:,} checked)")
        from vigc.jobs.progress import duration

        took = duration(preview.look_seconds)
        say(f"  The content of {preview.looked_at:,} was checked. The job first checks all: about {took}.")
    for reason, number in preview.refused.most_common(5):
        _number(number, f"to be skipped: the file {reason}")
    _number(inputs.taken, f"to process, in {count(inputs.shards, 'shard')} of {plan.job['shard_size']:,}")
    _number(preview.pairs, f"rows at most: {', '.join(plan.configuration.types)}")


def _number(number: int, what: str) -> None:
    if number:
        say(f"{number:>14,} {line(what)}")


def _print_state(preview: Preview) -> None:
    if preview.finished:
        say(f"\nThis job is finished: {count(preview.rows_done, 'row')}, {_bytes(preview.bytes_done)}.")
    elif preview.replaces:
        say("\nThe folder has a dataset, which --overwrite would replace.")
    elif preview.shards_done:
        shards, rows = preview.plan.inputs.shards, count(preview.rows_done, "row")
        say(f"\nThe job has begun: {preview.shards_done:,} of {count(shards, 'shard')} are finished, with {rows}.")


def _print_rows(preview: Preview, sample: ShardOutput) -> None:
    from vigc.processing.word_diff import word_differences

    configuration = preview.plan.configuration
    made = f"{configuration.model}, {configuration.dtype}, on {preview.plan.job['device']}"
    say(f"\nRows from the model ({made})")
    for row in preview.rows:
        say(f"\n  {row['type']}, {line(row['image_id'])}")
        texts = {"question": row["question"], "answer": row["answer"]}
        if row["draft"] is not None:
            before, after = word_differences(row["draft"], row["answer"])
            answer = _marked(after, "{+", "+}") if before != after else "same as the draft"
            texts = {"question": row["question"], "draft": _marked(before, "[-", "-]"), "answer": answer}
        for name, text in texts.items():
            say(fill(line(text), 110, initial_indent=f"    {name:<10}", subsequent_indent=" " * 14))
    reasons = [f"{record['path']}: {record['reason']}" for record in sample.skipped + sample.rejects]
    if reasons:
        say(f"\n  Of the inputs tried, {len(reasons)} would be skipped or rejected:")
    for text in reasons[:3]:
        say(f"    {line(text)}")


def _marked(parts: list[tuple[str, bool]], left: str, right: str) -> str:
    """A text with the words that the other lacks between marks, like `git diff --word-diff`."""
    return "".join(f"{left}{text}{right}" if marked else text for text, marked in parts)


def _print_estimate(preview: Preview, estimate: Estimate) -> None:
    from vigc.jobs.progress import duration

    trial, left = estimate.trial, preview.inputs_left
    rows = len(trial.output.rows)
    say(f"\nEstimate, from {count(rows, 'row')} about {count(trial.inputs, 'input')} spread over the inputs")
    say(f"  rows  about {estimate.rows:,}")
    each, by = trial.seconds / trial.timed, f" and {estimate.workers} processes" if estimate.workers > 1 else ""
    say(
        f"  time  about {duration(estimate.seconds)} for the remaining {left:,}: {each:.2g} s each in a batch of "
        f"{trial.timed}{by}, plus loading the model"
    )
    say(f"  size  about {_bytes(estimate.size)}; {_bytes(estimate.free)} are free on the disk")
    if estimate.size - preview.bytes_done > estimate.free:
        say("  The disk is too small: give another --output, or --images path to keep paths only.")


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
