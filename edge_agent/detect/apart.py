"""A detector in a process of its own, for a model that must not harm the one at work: there it may hang, crash or eat memory.

Pictures go there in shared memory, one at a time; what was found comes back over a socket, a packet of JSON for each picture.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.child import NO_MEMORY, Say, run_child, serve
from edge_agent.detect.detector import ModelDetector
from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError
from edge_agent.types import Detections, Frame, ModelTag

MODULE = "edge_agent.detect.apart"
"""What the child runs: this file."""
LOAD_S = 120.0
"""For the first start of a vendor's driver after boot, with room."""
HUNG_S = 60.0
"""For one frame, at low priority on a busy box."""
WARM_RUNS = 3
_END_S = 10.0
_PACKET = 1 << 20


class DetectorApart:
    """``detect`` as a ``ModelDetector`` has it, for one thread. Loaded and warm when the constructor returns.

    ``memory_mb`` limits its address space (CPU only), ``growth_mb`` what it may come to need beyond what it needed when it was
    warm. Whatever ends the process is told by ``trouble``, and raised by ``detect`` as HardwareError; a frame on which only the
    model fails is an InferenceError. The constructor raises HardwareError, ModelError.
    """

    def __init__(
        self,
        backend: str,
        request: LoadRequest,
        *,
        niceness: int,
        growth_mb: int,
        memory_mb: int | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        network = request.network
        self.backend_name, self.labels = backend, network.labels
        self.tag = ModelTag(network.manifest.name, network.manifest.version, network.file.sha256)
        self.trouble: tuple[str, str] | None = None
        """Why it has ended, in one word and in words."""
        self._growth_mb, self._cancel = growth_mb, cancel or threading.Event()
        self._fault: EdgeAgentError | None = None
        self._lock, self._closed = threading.Lock(), False
        """Held while a frame is under way: what it needs is not let go of under it."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._file = os.memfd_create("frame")
        self._pixels: mmap.mmap | None = None
        asked = {"backend": backend, **request.to_json(), "socket": self._theirs.fileno(), "pixels": self._file}
        files, limits = (self._theirs.fileno(), self._file), {"niceness": niceness, "memory_mb": memory_mb}
        self._thread = threading.Thread(target=self._attend, args=(asked, files, limits), name="apart", daemon=True)
        self._thread.start()
        try:
            self.memory_mb = self._usual_mb = float(self._hear(LOAD_S)["memory_mb"])
            """What it needs of the box's memory."""
        except EdgeAgentError:
            self.close()
            raise

    def _attend(self, asked: dict[str, Any], files: tuple[int, ...], limits: dict[str, Any]) -> None:
        """Start the process and wait for its end. The kernel ends it with this very thread (prctl(2), PR_SET_PDEATHSIG)."""
        what = f"{self.tag.label} beside the model at work"
        try:
            run_child(MODULE, asked, what=what, timeout_s=float("inf"), cancel=self._cancel, files=files, **limits)
        except EdgeAgentError as error:
            self._fault = error
        finally:
            self._theirs.close()  # now, and not before, the other end hears that nobody is there

    def detect(self, frame: Frame) -> Detections:
        """Boxes in source pixels, best score first. Blocks for as long as it takes there."""
        with self._lock:
            if self.trouble is not None or self._closed:
                raise HardwareError(self.trouble[1] if self.trouble else f"{self.tag.label} was stopped")
            return self._detect(frame)

    def _detect(self, frame: Frame) -> Detections:
        image = frame.image
        try:
            pixels = self._room(image.nbytes)
            np.copyto(np.frombuffer(pixels, np.uint8, image.size).reshape(image.shape), image)
            self._ours.send(json.dumps({"shape": image.shape, "frame": frame.index}).encode())
        except BrokenPipeError:  # it has ended: what there is to hear says why
            pass
        except OSError as error:
            raise self._over("crashed", f"{self.tag.label}: no picture can be given to it: {error}") from error
        reply = self._hear(HUNG_S)
        if "error" in reply:
            raise InferenceError(str(reply["error"]))
        self.memory_mb = float(reply["memory_mb"])
        if self.memory_mb > self._usual_mb + self._growth_mb:
            words = f"{self.tag.label} needs {self.memory_mb:.0f} MB, {self._usual_mb:.0f} MB when it began"
            raise self._over("memory", words)
        boxes = np.array(reply["boxes"], np.float32).reshape(-1, 4)
        scores, classes = np.array(reply["scores"], np.float32), np.array(reply["classes"], np.int32)
        return Detections(boxes, scores, classes, self.labels, self.tag)

    def _room(self, size: int) -> mmap.mmap:
        if self._pixels is None or len(self._pixels) < size:
            os.ftruncate(self._file, size)
            self._pixels = mmap.mmap(self._file, size)  # the one before goes with its last view
        return self._pixels

    def _hear(self, patience_s: float) -> dict[str, Any]:
        self._ours.settimeout(patience_s)
        try:
            packet = self._ours.recv(_PACKET)
        except TimeoutError:
            raise self._over("hung", f"{self.tag.label} has not come back for {patience_s:g} s") from None
        except ConnectionResetError:
            packet = b""
        if packet:
            reply: dict[str, Any] = json.loads(packet)
            return reply
        self._thread.join(_END_S)
        fault = self._fault or HardwareError(f"{self.tag.label} was stopped")
        self.trouble = self.trouble or ("memory" if str(fault) == NO_MEMORY else "crashed", str(fault))
        raise fault

    def _over(self, word: str, words: str) -> HardwareError:
        self.trouble = self.trouble or (word, words)
        self._cancel.set()
        return HardwareError(words)

    def close(self) -> None:
        """End the process, whatever it is doing. From any thread; a second call does nothing."""
        self._cancel.set()
        self._thread.join(_END_S)
        with self._lock:  # a frame that was inside has come out
            if not self._closed:
                self._closed = True
                self._ours.close()
                os.close(self._file)


def _perform(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    """The child's part, until the other side is gone."""
    import cv2

    cv2.setNumThreads(1)
    say("loading the network")
    detector = ModelDetector(asked["backend"], LoadRequest.from_json(asked))
    say("running it for the first time")
    width, height = detector.network.input.size
    grey = np.full((height, width, 3), 128, np.uint8)
    for number in range(WARM_RUNS):
        detector.detect(Frame("warm-up", number, 0.0, 0.0, grey))
    say("looking at frames")
    with socket.socket(fileno=asked["socket"]) as talk:
        talk.send(json.dumps({"memory_mb": _memory_mb()}).encode())
        pixels: mmap.mmap | None = None
        while packet := talk.recv(_PACKET):
            job = json.loads(packet)
            size = int(np.prod(job["shape"]))
            if pixels is None or len(pixels) < size:
                pixels = mmap.mmap(asked["pixels"], size, prot=mmap.PROT_READ)
            image = np.frombuffer(pixels, np.uint8, size).reshape(job["shape"])
            talk.send(json.dumps(_look(detector, Frame("apart", job["frame"], 0.0, 0.0, image))).encode())
    return {}


def _look(detector: ModelDetector, frame: Frame) -> dict[str, Any]:
    try:
        found = detector.detect(frame)
    except InferenceError as error:
        return {"error": str(error)[:1000]}
    return {
        "boxes": found.boxes.astype(np.float64).round(2).tolist(),
        "scores": found.scores.astype(np.float64).round(4).tolist(),
        "classes": found.classes.tolist(),
        "memory_mb": _memory_mb(),
    }


def _memory_mb() -> float:
    """What of this process is in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE / 2**20


if __name__ == "__main__":
    serve(_perform)
