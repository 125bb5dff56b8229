"""What a proof is about, sealed by SHA-256: network, input, query and every file.

A proof is a folder of a proof directory, beside the network that proofs share:

    network-8f14e45fceea167a.npz
    14628-l1-2-c9f0f895fb98ab91/manifest.json
                                query.json
                                intervals.json
                                formula.cnf.gz, refutation.drup.gz   or
                                formula.opb.gz, refutation.pbp.gz    or
                                split.json.gz or branch.json.gz      or neither

The seal finds damage and mix-ups. It is no signature: who can write the folder can
write another proof, of another claim, which the manifest would then name.
"""

import dataclasses
import enum
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Requirement, Robust, Tie
from jaxsnn.sat.spec import IntegerNetwork

SCHEMA_VERSION = 2
MANIFEST_FILE = "manifest.json"
QUERY_FILE = "query.json"
INTERVALS_FILE = "intervals.json"

# What the checks below read of a query; one that asks more is none of theirs.
_QUERY_FIELDS = {
    "spike_steps",
    "low",
    "high",
    "label",
    "max_total_shift",
    "max_changed",
    "tie",
    "target",
    "max_dropped",
    "max_inserted",
    "silent_step",
    "requires",
}
_KINDS = {Robust: "robust", Latency: "latency", Monotone: "monotone", Alike: "alike"}


class Method(enum.Enum):
    """How the claim is shown."""

    INTERVALS = "intervals"  # the intervals alone decide
    SPLIT = "split"  # the intervals of all parts of the ball
    BRANCH = "branch"  # linear bounds in all parts of the windows
    CLAUSES = "clauses"  # a refutation of the clauses
    CUTTING_PLANES = "cutting_planes"  # of the linear constraints


# Formula and refutation of each method.
REFUTATION_FILES = {
    Method.INTERVALS: (),
    Method.SPLIT: ("split.json.gz",),
    Method.BRANCH: ("branch.json.gz",),
    Method.CLAUSES: ("formula.cnf.gz", "refutation.drup.gz"),
    Method.CUTTING_PLANES: ("formula.opb.gz", "refutation.pbp.gz"),
}


class Manifest(NamedTuple):
    """The content of a manifest file.

    Attributes:
      method: how the claim is shown.
      network_file: name of the network's file in the proof directory.
      network_file_sha256: of its bytes.
      network: digest of its integers, `network_digest`.
      input: digest of the unperturbed spike steps.
      query: digest of the query.
      other_file: name of the file of a second network that is compared, or None; its
        digest is in the query.
      other_file_sha256: of its bytes.
      files: SHA-256 of each file of the folder.
      subject: what the results call it: sample, norm, radius; labels, not claims.
    """

    method: Method
    network_file: str
    network_file_sha256: str
    network: str
    input: str
    query: str
    other_file: str | None
    other_file_sha256: str | None
    files: Mapping[str, str]
    subject: Mapping[str, Any]


def network_digest(network: IntegerNetwork) -> str:
    """Returns the SHA-256 of what a network computes: steps, delays and synapses."""
    digest = hashlib.sha256()
    rows = [layer.synapses() for layer in network.layers]
    shapes = [
        [layer.num_inputs, layer.num_outputs, layer.delay, len(row.weights)]
        + ([] if row.instant else ["delays"])
        for layer, row in zip(network.layers, rows, strict=True)
    ]
    digest.update(to_json({"num_steps": network.num_steps, "layers": shapes}))
    for row in rows:
        # Without delays the digest is what it was before there were any.
        for array in row[:-1] if row.instant else row:
            digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    return digest.hexdigest()


def input_digest(query: Query) -> str:
    """Returns the SHA-256 of the unperturbed spike steps as little-endian int64."""
    return sha256(np.ascontiguousarray(query.spike_steps, "<i8").tobytes())


def query_to_json(query: Query) -> bytes:
    """Returns a query as JSON, the same bytes for equal queries.

    Raises:
      ProofError: the query asks something that no check here reads.
    """
    values = {
        field.name: getattr(query, field.name) for field in dataclasses.fields(query)
    }
    if set(values) != _QUERY_FIELDS:
        unknown = ", ".join(sorted(set(values) ^ _QUERY_FIELDS))
        raise ProofError(f"queries that say {unknown} have no proofs")
    return to_json(
        {
            **values,
            "spike_steps": query.spike_steps.tolist(),
            "low": query.low.tolist(),
            "high": query.high.tolist(),
            "tie": query.tie.value,
            "requires": _requirement_to_dict(query.requires),
        }
    )


def query_from_json(data: bytes, other: IntegerNetwork | None = None) -> Query:
    """Reads what `query_to_json` wrote.

    Args:
      data: the bytes.
      other: the network that the query compares with, if it does.

    Raises:
      ProofError: it did not write this, or about another network.
    """
    try:
        values = json.loads(data)
        requires = _requirement_from_dict(values["requires"], other)
        changes = {"tie": Tie(values["tie"]), "requires": requires}
        query = Query(**{**values, **changes})
        written = values | values["requires"]
        numbers = [
            value
            for name, value in written.items()
            if name not in _NO_NUMBERS and value is not None
        ]
        integral = all(type(number) is int for number in numbers)
        if integral and query_to_json(query) == data:
            return query
    except (ValueError, TypeError, KeyError):
        pass
    raise ProofError(f"{QUERY_FILE} is no query of this schema")


# Checked otherwise: by conversion, or by writing the query again.
_NO_NUMBERS = {"spike_steps", "low", "high", "tie", "requires"} | {
    "kind",
    "other",
    "of_label",
}


def _requirement_to_dict(requires: Requirement) -> dict[str, Any]:
    kind = {"kind": _KINDS[type(requires)]}
    if isinstance(requires, Alike):
        return {**kind, "other": network_digest(requires.other)}
    return {**kind, **dataclasses.asdict(requires)}


def _requirement_from_dict(
    values: Mapping[str, Any], other: IntegerNetwork | None
) -> Requirement:
    fields = {name: value for name, value in values.items() if name != "kind"}
    match values["kind"]:
        case "robust":
            return Robust(**fields)
        case "latency":
            requires = Latency(**fields)
            if type(requires.of_label) is bool:
                return requires
        case "monotone":
            return Monotone(**fields)
        case "alike" if other is not None:
            return Alike(other)
    raise ValueError(f"no requirement: {values}")


def seal(manifest: Manifest) -> bytes:
    """Returns a manifest as the bytes of its file, its own digest included."""
    content = {
        **manifest._asdict(),
        "method": manifest.method.value,
        "schema": SCHEMA_VERSION,
    }
    return to_json({**content, "sha256": sha256(to_json(content))}, indent=2)


def open_sealed(folder: pathlib.Path) -> tuple[Manifest, dict[str, bytes]]:
    """Reads a proof's folder and confirms every hash.

    Args:
      folder: inside the proof directory.

    Returns:
      The manifest, and the bytes of each file of the folder.

    Raises:
      ProofError: naming what is missing, superfluous or altered.
    """
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
    except OSError:
        raise ProofError(f"has no readable {MANIFEST_FILE}") from None
    try:
        content = json.loads(data)
        schema = content.pop("schema")
        del content["sha256"]
        manifest = Manifest(**{**content, "method": Method(content["method"])})
        intact = schema == SCHEMA_VERSION and seal(manifest) == data
    except (ValueError, TypeError, KeyError, AttributeError):
        intact = False
    if not intact:
        raise ProofError(f"{MANIFEST_FILE} was altered, or is of another version")
    wanted = {QUERY_FILE, INTERVALS_FILE, *REFUTATION_FILES[manifest.method]}
    present = {path.name for path in folder.iterdir()} - {MANIFEST_FILE}
    if not wanted == present == set(manifest.files):
        odd = sorted((wanted ^ present) | (wanted ^ set(manifest.files)))
        raise ProofError(f"{', '.join(odd)}: missing, or none of this proof")
    files = {}
    for name, expected in manifest.files.items():
        files[name] = _read(folder / name, expected)
    return manifest, files


def confirm_network_file(proof_dir: pathlib.Path, manifest: Manifest) -> pathlib.Path:
    """Returns the path of the network's file after comparing its hash.

    Raises:
      ProofError: it is missing, altered, or outside the proof directory.
    """
    if pathlib.PurePath(manifest.network_file).name != manifest.network_file:
        raise ProofError(f"{manifest.network_file} lies outside the proof directory")
    path = proof_dir / manifest.network_file
    _read(path, manifest.network_file_sha256)
    return path


def confirm_other_file(
    proof_dir: pathlib.Path, manifest: Manifest
) -> pathlib.Path | None:
    """Returns the path of the second network's file, None if there is none.

    Raises:
      ProofError: as `confirm_network_file`.
    """
    if manifest.other_file is None or manifest.other_file_sha256 is None:
        return None
    renamed = manifest._replace(
        network_file=manifest.other_file,
        network_file_sha256=manifest.other_file_sha256,
    )
    return confirm_network_file(proof_dir, renamed)


def _read(path: pathlib.Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError:
        raise ProofError(f"{path.name} cannot be read") from None
    if sha256(data) != expected:
        raise ProofError(f"{path.name} was altered")
    return data


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Returns JSON with sorted keys: equal values, equal bytes."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, sort_keys=True, indent=indent, separators=separators)
    return text.encode() + b"\n"
