"""Planted faults that the search must find. Each is a text replacement in our sources that exceeds a bound."""

from typing import NamedTuple

from cost.work import Patch


class Fault(NamedTuple):
    """A planted fault, and the target that must find it."""

    target: str
    patch: Patch


FAULTS = {
    "a merge of fragments that goes through all that is held": Fault(
        "sctp",
        Patch(
            "        if run.first not in self._by_first:",
            "        if run.first not in [one.first for one in self._by_first.values() if b''.join(one.payloads)]:",
        ),
    ),
    "a scan of all outstanding chunks for each that a SACK names": Fault(
        "sctp",
        Patch(
            "            if offset >= first and not chunk.acked:",
            "            if offset >= first and chunk not in [one for one in self._outstanding if one.acked]:",
        ),
    ),
    "a list of parameters that is made anew for each": Fault(
        "decoder",
        Patch(
            "        parameters.append(Parameter(kind, data[position + 4 : position + length]))",
            "        parameters = [*(one for one in parameters if one), Parameter(kind, data[position + 4 :])]",
        ),
    ),
    "a search for each line of SDP among all lines": Fault(
        "decoder",
        Patch(
            'for number, line in enumerate(lines, 1) if line and line != "a="]',
            'for number, line in enumerate(lines, 1) if lines.index(line) >= 0 and line and line != "a="]',
        ),
    ),
    "feedback on packets that is bounded in each packet and not in the compound": Fault(
        "rtcp",
        Patch("            if reported <= MAX_STATUSES < statuses:", "            if reported > MAX_STATUSES:"),
    ),
    "no turn for other tasks between the pieces of a body": Fault(
        "http",
        Patch("        if not self._pieces % PIECES_PER_REQUEST:", "        if not self._pieces:"),
    ),
}
