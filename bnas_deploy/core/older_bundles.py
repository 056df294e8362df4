"""Manifests of older formats, read as those of today."""

from typing import Any

from bnas_deploy.core.json_records import value_of, wanted


def without_pieces(data: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 1 or 2 as one of format 3, without pieces.

    Raises:
        ValueError: it is none.
    """
    old = _verification(data)
    verification = {name: value for name, value in old.items() if name != "layers"}
    return {"quantization": None, **data, "verification": {**verification, "pieces": [], "ties": {}}}


def of_images_to_logits(data: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 3 as one of today: it has one input of images and one output of logits.

    Raises:
        ValueError: it is none.
    """
    rest = dict(data)
    names = {"input_name": str, "input_shape": tuple[int, ...], "output_name": str}
    for name in names:
        if name not in rest:
            raise ValueError(f"the field {name!r} is missing")
    image, size, logits = (value_of(kind, rest.pop(name), name) for name, kind in names.items())
    wanted(len(size) == 3 and min(size) > 0, list(size), "input_shape", "channels, height and width, at least 1 each")
    labels: tuple[str, ...] = value_of(tuple[str, ...], data.get("labels"), "labels")
    verification = dict(_verification(data))
    if "output_tolerance" not in verification:
        raise ValueError("verification: the field 'output_tolerance' is missing")
    tolerance = verification.pop("output_tolerance")
    value_of(float, tolerance, "verification.output_tolerance")
    return {
        **rest,
        "inputs": [{"name": image, "dtype": "float32", "shape": [None, *size]}],
        "outputs": [{"name": logits, "dtype": "float32", "shape": [None, len(labels)]}],
        "verification": {**verification, "output_tolerances": {logits: tolerance}},
    }


def _verification(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data.get("verification")  # type: ignore[assignment]  # looked at in the next line
    wanted(isinstance(found, dict), found, "verification", "an object")
    return found
