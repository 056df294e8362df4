"""Which bundles can be asked for the class of an image."""

from bnas_deploy.core.bundle import Bundle, Preprocessing
from bnas_deploy.core.errors import BundleError


def image_classifier(bundle: Bundle) -> tuple[tuple[str, ...], Preprocessing]:
    """Return the classes of a bundle, and how its images are made.

    Raises:
        BundleError: its network is no classifier, or takes something else than images.
    """
    manifest = bundle.manifest
    if manifest.labels is None:
        answers = ", ".join(each.name for each in manifest.outputs)
        raise BundleError(
            f"{bundle.path}: no classifier: it answers {answers} and has no labels, so no class is right or wrong; run "
            "it with Model.run in Python, and compare its outputs with what you expect"
        )
    if manifest.preprocessing is None or manifest.image_size is None:
        taken = ", ".join(f"{each.name} {each.wanted}" for each in manifest.inputs)
        raise BundleError(
            f"{bundle.path}: takes {taken}, and images alone do not give it that; run it with Model.run in Python"
        )
    return manifest.labels, manifest.preprocessing
