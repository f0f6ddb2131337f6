"""YOLOv9, with YOLOv10's head, YOLOX and YOLO-NAS, made tiny, and who answers for each. See make.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.decoder_networks.make import (
    BGR_255,
    CLASSES,
    HEIGHT,
    IOU,
    RGB_01,
    WIDTH,
    Answer,
    Made,
    Wrapped,
    even,
    export,
    liven,
    numpy_answer,
    of_dict,
    picture,
    tensor,
    versions,
)

MANY = 1000


def _as_centres(rows: torch.Tensor) -> torch.Tensor:
    """(1, 4+C, N) with corners to centre and size."""
    x1, y1, x2, y2 = rows[:, :4].split(1, 1)
    return torch.cat(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, rows[:, 4:]), 1)


# ---- YOLOv9


def _tiny_yolo9(module: Any) -> str:
    widths = dict.fromkeys(("conv0_out", "conv1_out", "first_block_out", "neck_down1_out", "neck_down2_out"), 8)
    tiny = module.YOLO9_CONFIGS["t"] | widths | {"repeat_num": 1, "spp_out": 16, "stages": [(8, 8, 8)] * 3}
    tiny |= {f"neck_elan_{k}": (8, 8) for k in ("up1", "up2", "down1", "down2")} | {"head_channels": (8, 8, 8)}
    module.YOLO9_CONFIGS["tiny"] = tiny
    return "tiny"


def _yolo9(model_class: Any, seed: int) -> nn.Module:
    from libreyolo.models.yolo9 import nn as module

    model = model_class(_tiny_yolo9(module), reg_max=4, nb_classes=CLASSES, img_size=WIDTH)
    liven(model, RGB_01, seed)
    towers = [tower for name in ("cv2", "cv3", "one2one_cv2", "one2one_cv3") for tower in getattr(model.head, name, ())]
    even(model, RGB_01, [tower[-1] for tower in towers])
    return model


def _yolov9(folder: Path, shape: Callable[[torch.Tensor], Any], outputs: list[str], decode: dict[str, Any]) -> Made:
    from libreyolo.models.yolo9.nn import LibreYOLO9Model
    from libreyolo.postprocess.yolo9 import postprocess

    model = _yolo9(LibreYOLO9Model, 1)
    with torch.no_grad():
        dense = model(tensor(RGB_01))
    # It gives a place every class that passes, the agent the best one, as most tools of the family do.
    scores = dense["predictions"][:, 4:]
    scores *= scores == scores.amax(1, keepdim=True)

    def reference(threshold: float) -> Answer:
        return of_dict(postprocess(dense, threshold, IOU, (HEIGHT, WIDTH), None, MANY))

    export(Wrapped(model, lambda out: shape(out["predictions"])), RGB_01, folder, outputs)
    name = "YOLOv9 (LibreYOLO's, MIT), narrowed"
    return Made(
        "yolov8",
        name,
        versions("libreyolo", "torchvision") + ", best class of a place",
        reference,
        outputs,
        RGB_01,
        decode,
    )


def yolov9_corners(folder: Path) -> Made:
    return _yolov9(folder, lambda rows: rows, ["output0"], {"box_format": "xyxy"})


def yolov9_split(folder: Path) -> Made:
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]).view(1, 4, 1)

    def split(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = _as_centres(rows)
        return rows[:, :4] / scale, torch.logit(rows[:, 4:])

    return _yolov9(folder, split, ["boxes", "scores"], {"boxes": "normalised", "scores": "logit"})


def yolov8_layout(folder: Path) -> Made:
    """The plain [1, 4+C, N] of centres, read by OpenVINO's wrapper for YOLOv8 and YOLO11 on OpenVINO's own inference."""
    made = _yolov9(folder, _as_centres, ["output0"], {})
    made.network += ", exported as YOLOv8 and v11 are"
    made.checked_by = versions("openvino-model-api", "openvino")
    made.kind = "a third party's wrapper for the family; it gives whole pixels"
    made.tolerance_px = 0.51

    def reference(threshold: float) -> Answer:
        from model_api.adapters import OpenvinoAdapter, create_core
        from model_api.models import YOLO11

        # By itself OpenVINO computes in bfloat16 where the processor can.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        model = YOLO11(
            OpenvinoAdapter(create_core(), str(folder / "model.onnx"), device="CPU", plugin_config=exact),
            {"confidence_threshold": threshold, "iou_threshold": IOU, "resize_type": "standard"},
            preload=True,
        )
        found = model(picture())
        return numpy_answer(found.bboxes, found.scores, found.labels)

    made.reference = reference
    return made


def yolov10_layout(folder: Path) -> Made:
    from libreyolo.models.yolo9_e2e.nn import LibreYOLO9E2EModel
    from libreyolo.postprocess.yolo9_e2e import postprocess

    class Livened(LibreYOLO9E2EModel):  # type: ignore[misc]
        pass

    model = _yolo9(Livened, 2)
    with torch.no_grad():
        dense = model(tensor(RGB_01))

    def best(out: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = out["predictions"].transpose(1, 2)
        scores, places = rows[..., 4:].flatten(1).topk(100, dim=1)
        boxes = rows[..., :4].gather(1, (places // CLASSES).unsqueeze(-1).expand(-1, -1, 4))
        return torch.cat((boxes, scores.unsqueeze(-1), (places % CLASSES).unsqueeze(-1).to(boxes.dtype)), -1)

    export(Wrapped(model, best), RGB_01, folder, ["output0"])
    return Made(
        "yolov10",
        "YOLOv9 with YOLOv10's one-to-one head (LibreYOLO's, MIT), narrowed, best 100 chosen in the network",
        versions("libreyolo"),
        lambda threshold: of_dict(postprocess(dense, threshold, input_size=(HEIGHT, WIDTH), max_det=100)),
        ["output0"],
        RGB_01,
    )


# ---- YOLOX


def _yolox(folder: Path, *, decoded: bool) -> Made:
    from yolox.models import YOLOPAFPN, YOLOX, YOLOXHead
    from yolox.utils import postprocess

    model = YOLOX(YOLOPAFPN(0.33, 1 / 32), YOLOXHead(CLASSES, 1 / 32))
    liven(model, BGR_255, 3, lambda x: _branches(model.head, model.backbone(x)))
    even(model, BGR_255, [*model.head.cls_preds, *model.head.reg_preds, *model.head.obj_preds])
    with torch.no_grad():
        dense = model(tensor(BGR_255))

    def reference(threshold: float) -> Answer:
        found = postprocess(dense.clone(), CLASSES, threshold, IOU)[0]
        return numpy_answer(found[:, :4], found[:, 4] * found[:, 5], found[:, 6])

    model.head.decode_in_inference = decoded
    export(model, BGR_255, folder, ["output"])
    return Made(
        "yolox",
        "YOLOX (Megvii's package, Apache-2.0), narrowed",
        versions("yolox", "torchvision"),
        reference,
        ["output"],
        BGR_255,
        {"decoded": decoded},
    )


def _branches(head: nn.Module, features: Any) -> None:
    """In training the head asks for labels; to set the normalisations its branches are enough."""
    for stem, classes, boxes, feature in zip(head.stems, head.cls_convs, head.reg_convs, features, strict=True):
        classes(stem(feature)), boxes(stem(feature))


def yolox_raw(folder: Path) -> Made:
    return _yolox(folder, decoded=False)


def yolox_decoded(folder: Path) -> Made:
    return _yolox(folder, decoded=True)


# ---- YOLO-NAS


def yolonas(folder: Path) -> Made:
    from libreyolo.models.yolonas import nn as module
    from libreyolo.postprocess.yolonas import postprocess

    module._VARIANT_CONFIGS["tiny"] = module._VARIANT_CONFIGS["n"] | {
        "stem_channels": 8,
        "stage_out": (8, 8, 8, 16),
        "stage_blocks": (1, 1, 1, 1),
        "stage_hidden": [8, 8, 8, 8],
        "neck_out": (8, 8, 8, 8),
        "up_blocks": [1, 1],
        "up_hidden": [8, 8],
        "down_blocks": [1, 1],
        "down_hidden": [8, 8],
        "head_width_mult": 1 / 32,
    }
    model = liven(module.LibreYOLONASModel("tiny", CLASSES, eval_size=(HEIGHT, WIDTH)), RGB_01, 6)
    even(model, RGB_01, [getattr(model.heads, f"head{i}").cls_pred for i in (1, 2, 3)])
    with torch.no_grad():
        dense = model(tensor(RGB_01))[0]
    # The branches for training are folded into one, as its own export does.
    model.fuse_reparam()
    export(
        Wrapped(model, lambda out: out if isinstance(out[0], torch.Tensor) else out[0]),
        RGB_01,
        folder,
        ["boxes", "scores"],
    )
    return Made(
        "yolonas",
        "YOLO-NAS (LibreYOLO's port of SuperGradients' architecture), narrowed, without suppression",
        versions("libreyolo", "torchvision"),
        lambda threshold: of_dict(postprocess(dense, threshold, IOU, (HEIGHT, WIDTH), None, MANY)),
        ["boxes", "scores"],
        RGB_01,
    )
