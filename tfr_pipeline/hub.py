"""TensorFlow Hub modules: where they are, what they offer, and how they are loaded.

A module is a SavedModel that can be called, "reusable" in TensorFlow's words. It is
code as well as numbers: what it computes, and which files it reads, is up to whoever
made it. So nothing is loaded that nobody named, and a URL has to name a version.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tarfile
from typing import Any

from tfr_pipeline import copies, files, urls
from tfr_pipeline.errors import ConfigError, RunError, unknown_name

_ARCHIVE = re.compile(r"\.(tar\.gz|tgz|tar)$")
_SAVED_MODEL = "saved_model.pb"
# What the older format, of `hub.Module`, has beside it.
_TF1 = "tfhub_module.pb"
# The end of the last part of a URL: `1`, `nnlm-2`, `encoder_v3.tar.gz`.
_VERSION = re.compile(r"(^|[-_./v])\d+$")


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a module offers.

    Attributes:
      is_callable: Whether it can be called, without a signature.
      signatures: Maps signatures to the names of their inputs and of their outputs.
    """

    is_callable: bool
    signatures: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

    def __str__(self) -> str:
        """Says it in words."""
        parts = ["a call"] if self.is_callable else []
        parts += [
            f"signature {name!r} ({', '.join(inputs)}) -> ({', '.join(outputs)})"
            for name, (inputs, outputs) in sorted(self.signatures.items())
        ]
        return ", ".join(parts) or "nothing"


def find(handle: str) -> str:
    """Returns the folder of a module, which is fetched or unpacked if need be.

    Args:
      handle: A folder, an archive of one (`.tar.gz`, `.tgz`, `.tar`), or the URL of
        either with a version, such as `https://tfhub.dev/google/nnlm-en-dim128/2` or
        `s3://models/encoder/3`. Modules of the web are kept in TFHUB_CACHE_DIR, as
        TensorFlow Hub does; others in the cache of this package.

    Raises:
      ConfigError: There is nothing, or no SavedModel, or a URL has no version.
      RunError: A URL cannot be fetched, an archive not unpacked.
    """
    if not isinstance(handle, str) or not handle.strip():
        raise ConfigError(
            f"hub: expected the path or the URL of a module, found {handle!r}."
        )
    folder = files.local(handle, "hub")
    if urls.is_remote(handle):
        _check_version(handle)
        folder = _fetched(handle)
    if not os.path.exists(folder):
        raise ConfigError(f"hub: {handle}: expected a module, found nothing there.")
    if os.path.isfile(folder):
        folder = _unpacked(folder)
    _check(folder, handle)
    return folder


def _check_version(url: str) -> None:
    last = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    if not _VERSION.search(_ARCHIVE.sub("", last)):
        raise ConfigError(
            f"hub: {url}: expected a URL that ends in a version, such as .../2, found "
            f"{last!r}. Without one, it may be another module tomorrow."
        )


def _fetched(url: str) -> str:
    """Returns a local copy of a module of the web or of a store."""
    if not url.startswith(("http://", "https://")):
        if _ARCHIVE.search(url):
            return copies.fetch([url])[0]
        return copies.fetch_folder(url)
    from tfr_pipeline.compat import hub

    try:
        return str(hub.resolve(url))
    except Exception as error:  # its resolvers raise what they come across
        raise RunError(
            f"hub: {url}: cannot be fetched ({type(error).__name__}: {error}). Without "
            "a network, fetch it elsewhere and give its path, or set TFHUB_CACHE_DIR "
            "to a cache that has it."
        ) from error


def _unpacked(archive: str) -> str:
    """Returns the folder that an archive is unpacked to, once."""
    state = os.stat(archive)
    key = copies.key(os.path.abspath(archive), state.st_size, state.st_mtime_ns)
    place = os.path.join(copies.root("modules"), key)
    if not os.path.isdir(place):
        try:
            with copies.temporary(place) as new:
                with tarfile.open(archive) as opened:
                    # Nothing of it gets out of the folder.
                    opened.extractall(new, filter="data")
                os.rename(new, place)
        except (tarfile.TarError, EOFError) as error:
            raise ConfigError(
                f"hub: {archive}: expected a folder, or an archive such as .tar.gz; it "
                f"cannot be unpacked ({error})."
            ) from error
        except OSError as error:
            if not os.path.isdir(place):  # another process may have been first
                raise RunError(f"hub: {archive}: not unpacked: {error}.") from error
    names = os.listdir(place)
    if len(names) == 1 and os.path.isdir(os.path.join(place, names[0])):
        place = os.path.join(place, names[0])
    urls.copy_of(place, archive)
    return place


def _check(folder: str, handle: str) -> None:
    names = sorted(os.listdir(folder))
    if _TF1 in names:
        found = offer(folder) if _SAVED_MODEL in names else "nothing"
        raise ConfigError(
            f"hub: {handle}: expected a module of TensorFlow 2, found one of "
            f"TensorFlow 1 (hub.Module), which offers {found}. Take a later version."
        )
    if _SAVED_MODEL not in names:
        raise ConfigError(
            f"hub: {handle}: expected a SavedModel, that is a folder with "
            f"{_SAVED_MODEL}, found {', '.join(names[:8]) or 'nothing in it'}."
        )


def offer(folder: str) -> Offer:
    """Returns what the module in a folder offers, without loading it.

    Raises:
      ConfigError: Its description cannot be read.
    """
    from tfr_pipeline.compat import saved_model_proto

    path = os.path.join(folder, _SAVED_MODEL)
    try:
        with open(path, "rb") as file:
            graphs = saved_model_proto(file.read()).meta_graphs
        nodes = graphs[0].object_graph_def.nodes
    except Exception as error:  # whatever the parser of protos raises
        raise ConfigError(
            f"hub: {path}: expected a SavedModel, which this is not ({error})."
        ) from error
    children = nodes[0].children if nodes else ()
    return Offer(
        any(child.local_name == "__call__" for child in children),
        {
            name: (tuple(sorted(signature.inputs)), tuple(sorted(signature.outputs)))
            for graph in graphs
            for name, signature in graph.signature_def.items()
            if not name.startswith("__")
        },
    )


def check_function(
    handle: str, offered: Offer, signature: str | None, output_key: str | None
) -> str | None:
    """Checks which function of a module is meant.

    Args:
      handle: What names the module.
      offered: What it offers.
      signature: Name of a signature; None for the call.
      output_key: Name of one of the outputs; None if there is one.

    Returns:
      The output key, where a signature has one output the name of that.

    Raises:
      ConfigError: There is no such function, or none of one input, or no such output.
    """
    where = f"hub: {handle}"
    if signature is None:
        if not offered.is_callable:
            raise ConfigError(
                f"{where}: expected a module that can be called, found {offered}. "
                "Name one of its signatures: signature=..."
            )
        return output_key
    if signature not in offered.signatures:
        known = unknown_name("signature", signature, offered.signatures, where)
        raise ConfigError(f"{known} It offers {offered}.")
    inputs, outputs = offered.signatures[signature]
    if len(inputs) != 1:
        raise ConfigError(
            f"{where}: expected a signature of one input, found {offered}."
        )
    if output_key is None and len(outputs) == 1:
        return outputs[0]
    if output_key not in outputs:
        raise ConfigError(
            f"{unknown_name('output_key', str(output_key), outputs, where)} It offers "
            f"{offered}."
        )
    return output_key


def load(folder: str, handle: str) -> Any:
    """Loads the module in a folder; within the scope of a strategy, for that.

    Args:
      folder: What `find` returned.
      handle: For messages.

    Raises:
      ConfigError: It needs operations that are not there.
      RunError: It is damaged.
    """
    from tfr_pipeline.compat import hub, tf

    try:
        return hub.load(folder)
    except (tf.errors.NotFoundError, FileNotFoundError) as error:
        if "not registered" not in str(error):
            raise RunError(f"hub: {handle}: it is damaged: {error}") from error
        raise ConfigError(
            f"hub: {handle}: it is made of operations of another library ({error}). "
            "Import that library in the config file, such as tensorflow_text."
        ) from error
    except (tf.errors.OpError, OSError, ValueError, RuntimeError, LookupError) as error:
        raise RunError(
            f"hub: {handle}: it cannot be loaded ({type(error).__name__}: "
            f"{str(error)[:300]})."
        ) from error
