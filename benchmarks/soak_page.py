"""The page of the soak, from its JSON."""

from typing import Any

Figures = dict[str, Any]
AGREED = {
    "lost": "answers lost",
    "made_up": "answers that nobody gave",
    "different": "answers that differ",
    "gold_labels_wrong": "labels that differ from the crowd's log",
    "items_asked_twice": "items asked although an answer stood",
    "files_unknown": "data files that the warehouse does not know",
    "files_damaged": "data files with a wrong checksum",
}


def page(figures: Figures) -> str:
    """Markdown: what died, what was lost, what grew."""
    last, wrong = figures["last_check"], figures["wrong_checks"]
    names = {"kill run": "the run"}
    faults = ", ".join(f"{names.get(k, k)} {n} times" for k, n in sorted(figures["faults"].items()) if k != "none")
    codes = ", ".join(f"{count} with {code}" for code, count in sorted(figures["exit_codes"].items()))
    died = "; ".join(
        f"{one['service']} before cycle {one['before_cycle']}" for one in figures["services_ended_by_themselves"]
    )
    lines = [
        "# A soak of the human loop",
        "",
        "Written by `python -m benchmarks.soak`, whose docstring tells what it does.",
        "",
        f"{figures['cycles_done']} of {figures['cycles_wanted']} cycles in {figures['minutes']:.0f} minutes (median "
        f"{figures['seconds_a_cycle']:.0f} s), seed {figures['seed']}, three annotators, {last['answers']} answers. "
        f"Killed with SIGKILL: {faults or 'nothing'}. Runs ended {codes} (0 well, 3 a service was away, -9 killed by "
        "the soak).",
        "",
        "| after the last cycle | |",
        "|---|---:|",
        *(f"| {words} | {last[name]:,} |" for name, words in AGREED.items()),
        "",
        f"Answers taken back before anybody collected them: {last.get('taken_back_before_collected', 0)}. "
        f"Checks in between that found any of the above: {len(wrong)}. Runs that ended otherwise: "
        f"{len(figures['unexpected_exits'])}. Services that ended by themselves: {died or 'none'}.",
        "",
        "| what may not grow | first | last | points | growth in 100 cycles | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, found in figures["growth"].items():
        slope = f"{found['per_100_cycles']:+.1f}" if "per_100_cycles" in found else ""
        verdict = "" if "bounded" not in found else "bounded" if found["bounded"] else "grows"
        if "limit" in found:
            verdict += f": at most {found['most']:g} of {found['limit']:g}"
        lines.append(f"| {name} | {found['first']} | {found['last']} | {found['points']} | {slope} | {verdict} |")
    shown = [
        f"{name} {', '.join(f'{v:g}' for v in found['values'])}"
        for name, found in figures["growth"].items()
        if "values" in found
    ]
    if shown:
        lines += ["", f"In between: {'; '.join(shown)}."]
    lines += [
        "",
        "Growth: median of the slopes between points of one process, without the first tenth and, where it was killed, "
        "the first ten cycles of each life; bounded when under a tenth of the median. Warehouse files are judged by "
        "what upkeep may leave: a file for each table, and of a table with deleted rows eight more with a file each "
        "that says which. Data and the history in Prefect and Label Studio are meant to be kept.",
        "",
        f"{figures['cores']} cores, {figures['processor']}, {figures['memory_gib']} GiB, Python {figures['python']}, "
        f"commit {figures['commit'][:9]}.",
    ]
    return "\n".join(lines) + "\n"
