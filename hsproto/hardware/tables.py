"""What a result of `sizing` says, as text."""

from typing import Any

_GIB = 2**30
_RESOURCES = {"compute": "compute", "memory": "memory traffic", "links": "exchange between chips"}


def describe(result: dict[str, Any]) -> str:
    """Return a result as lines for a terminal."""
    head = f"{result['topology']}: {result['chips']} x {result['chip']}, {result['hosts']} host(s)"
    lines = [head, "", *_memory(result), ""]
    precise = result["flops_by_precision"]
    split = ", ".join(f"{v / 1e9:,.4g} G {name}" for name, v in precise.items())
    lines.append(f"FLOPs a chip and step    {result['flops'] / 1e9:,.4g} G ({split})")
    share = result["loss_flops"] / result["flops"] if result["flops"] else 0.0
    lines.append(f"  of these, the loss     {100 * share:.2f} %")
    traffic = result["traffic"]
    shown = "unknown: the program has loops" if traffic is None else f"{traffic / 1e9:,.4g} GB"
    lines.append(f"memory traffic           {shown}")
    return "\n".join([*lines, "", *_collectives(result), "", *_bound(result)])


def describe_remedies(found: list[tuple[str, dict[str, Any]]]) -> str:
    """Return what makes a run fit, as lines; each was compiled."""
    if not found:
        return "\nNone of the changes that were tried makes it fit."
    lines = ["", "Fits, by compiling it, with"]
    for change, result in found:
        lines.append(f"  {change:<22}{result['needed'] / _GIB:>8.2f} GiB a chip")
    return "\n".join(lines)


def _memory(result):
    needed, capacity = result["needed"], result["capacity"]
    verdict = "fits" if result["fits"] else "DOES NOT FIT"
    if capacity and needed:
        room = capacity - max(needed, result["needed_in_evaluation"] or 0)
        amount = (
            f"{room / _GIB:.2f} GiB to spare" if room >= 0 else f"{-room / _GIB:.2f} GiB too much"
        )
        verdict += f": {needed / _GIB:.2f} of {capacity / _GIB:.2f} GiB a chip, {amount}"
    yield verdict
    for name, size in result["memory"].items():
        shown = "-" if size is None else f"{size / _GIB:.3f} GiB"
        share = f"{100 * size / capacity:5.1f} %" if size is not None and capacity else ""
        yield f"  {name:<26}{shown:>12}  {share}".rstrip()
    if result["needed_in_evaluation"] is not None:
        yield f"  {'in an evaluation, in all':<26}{result['needed_in_evaluation'] / _GIB:>8.3f} GiB"


def _collectives(result):
    if not result["collectives"]:
        yield "chips exchange nothing"
        return
    yield f"{'chips exchange':<20}{'for':<12}{'count':>6}{'arrays':>14}{'sent a chip':>15}"
    for row in result["collectives"]:
        yield (
            f"  {row['kind']:<18}{row['part']:<12}{row['count']:>6}{_bytes(row['bytes']):>14}"
            f"{_bytes(row['sent']):>15}"
        )


def _bound(result):
    bound = result["bound"]
    if bound is None:
        yield "no bound: " + (
            "the step does not fit" if result["capacity"] else "no published peaks"
        )
        return
    yield "bound, from published peaks, NOT a measurement (a run is slower):"
    yield f"  step                   {1e3 * bound['seconds']:.3f} ms or more"
    yield f"  limited by             {_RESOURCES[bound['resource']]}"
    times = ", ".join(
        f"{_RESOURCES[name]} {'-' if value is None else f'{1e3 * value:.3f} ms'}"
        for name, value in bound["by_resource"].items()
    )
    yield f"                         ({times})"
    yield f"  images/s               {bound['images_per_second']:,.0f} at most"
    yield f"  the whole recipe       {bound['hours']:,.2f} hours or more, {result['steps']:,} steps"
    yield f"  peaks                  {bound['source']}"


def _bytes(size):
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"
