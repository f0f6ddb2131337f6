"""Where a runtime finds the files of a model."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_agent.detect.backends import LoadRequest
from edge_agent.errors import ModelError


@contextlib.contextmanager
def placed(request: LoadRequest) -> Iterator[list[str]]:
    """Paths to the verified file and its parts, valid inside the ``with``. Raises ModelError.

    External data of an ONNX file is looked for by name in the file's own folder, and no runtime follows links out of it:
    such a model is copied to a passing folder in the cache. Any other is read where it lies.
    """
    network = request.network
    with network.verified() as paths:
        if not network.file.parts or network.path.suffix != ".onnx":
            yield paths
            return
        names = [network.file.path, *(part.path for part in network.file.parts)]
        with contextlib.ExitStack() as stack:
            try:
                request.cache.mkdir(parents=True, exist_ok=True)
                made = tempfile.TemporaryDirectory(dir=request.cache, prefix="model-", ignore_cleanup_errors=True)
                folder = stack.enter_context(made)
                for path, name in zip(paths, names, strict=True):
                    shutil.copyfile(path, Path(folder, name))
            except OSError as error:
                raise ModelError(f"{network.path}: cannot be copied to {request.cache}: {error.strerror}") from error
            yield [str(Path(folder, name)) for name in names]
