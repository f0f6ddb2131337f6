"""YOLOv7 and YOLOv4, made tiny, and who answers for each. See make.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import yaml
from torch import nn

from tests.decoder_networks.make import (
    CLASSES,
    HEIGHT,
    IOU,
    RGB_01,
    WIDTH,
    Made,
    Wrapped,
    even,
    export,
    liven,
    of_dict,
    tensor,
    versions,
)

MANY = 1000


def yolov7(folder: Path) -> Made:
    from libreyolo.models.yolo7 import net
    from libreyolo.postprocess.yolo7 import postprocess

    config = yaml.safe_load(Path(net._V7_YAML).read_text(encoding="utf-8"))
    for section in ("backbone", "head"):
        for entry in config["model"][section]:
            args = next(iter(entry.values())).get("args", {})
            if "out_channels" in args:
                args["out_channels"] = max(4, args["out_channels"] // 64)
    small = [[v / 4 for v in anchors] for anchors in config["anchor"]["anchor"]]
    config["anchor"]["anchor"] = small
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        model = liven(net.YOLOv7Model(CLASSES, Path(file.name)), RGB_01, 4)
    even(model, RGB_01, [head.head_conv for head in model.layers[-1].heads])
    with torch.no_grad():
        maps = model(tensor(RGB_01))

    def decoded(maps: list[torch.Tensor]) -> torch.Tensor:
        """As the YOLOv5 and YOLOv7 exports end: (1, N, 5+C)."""
        parts = []
        for raw, stride, anchors in zip(maps, model.strides, model.anchors, strict=True):
            rows, columns = raw.shape[2:]
            y = raw.view(1, 3, 5 + CLASSES, rows, columns).permute(0, 1, 3, 4, 2).sigmoid()
            gy, gx = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            grid = torch.stack((gx, gy), -1).view(1, 1, rows, columns, 2)
            size = torch.tensor(anchors).view(1, 3, 1, 1, 2)
            xy = (y[..., :2] * 2 - 0.5 + grid) * stride
            wh = (y[..., 2:4] * 2) ** 2 * size
            parts.append(torch.cat((xy, wh, y[..., 4:]), -1).view(1, -1, 5 + CLASSES))
        return torch.cat(parts, 1)

    export(Wrapped(model, decoded), RGB_01, folder, ["output"])
    return Made(
        "yolov5",
        "YOLOv7 (its authors' MIT edition, LibreYOLO's), narrowed, exported as YOLOv5 and v7 are",
        versions("libreyolo", "torchvision") + ", from the three raw maps",
        lambda threshold: of_dict(
            postprocess(maps, model.anchors, model.strides, CLASSES, threshold, IOU, (HEIGHT, WIDTH), None, 1.0, MANY)
        ),
        ["output"],
        RGB_01,
    )


def yolov4(folder: Path) -> Made:
    from libreyolo.models.darknet import cfg
    from libreyolo.models.darknet.net import DarknetNet
    from libreyolo.postprocess.darknet_yolo import postprocess

    text = (Path(cfg.__file__).parent / "cfgs" / "yolov4-tiny.cfg").read_text(encoding="utf-8")
    options, layers = cfg.parse_cfg_text(text)
    options |= {"width": str(WIDTH), "height": str(HEIGHT)}
    for layer in layers:
        if "filters" in layer.options and layer.get_int("filters") != 255:
            layer.options["filters"] = max(4, layer.get_int("filters") // 16)
        elif "filters" in layer.options:
            layer.options["filters"] = 3 * (5 + CLASSES)
        if "classes" in layer.options:
            layer.options["classes"] = CLASSES
        if "anchors" in layer.options:
            layer.options["anchors"] = ",".join(str(v / 3) for v in layer.get_float_list("anchors"))
    model = liven(DarknetNet(options, layers, CLASSES), RGB_01, 5)
    even(
        model, RGB_01, [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 3 * (5 + CLASSES)]
    )
    with torch.no_grad():
        maps = model(tensor(RGB_01))
    specs = model.detection_specs()

    def decoded(maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """As the ONNX exports of YOLOv4 end: boxes (1, N, 1, 4) in fractions, confidences (1, N, C)."""
        boxes, confidences = [], []
        for raw, spec in zip(maps, specs, strict=True):
            rows, columns = raw.shape[2:]
            y = raw.view(3, 5 + CLASSES, rows, columns)
            gy, gx = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            s = spec.scale_x_y
            cx = ((y[:, 0].sigmoid() - 0.5) * s + 0.5 + gx) / columns
            cy = ((y[:, 1].sigmoid() - 0.5) * s + 0.5 + gy) / rows
            anchors = torch.tensor(spec.anchors)
            w = y[:, 2].exp() * anchors[:, 0].view(3, 1, 1) / WIDTH
            h = y[:, 3].exp() * anchors[:, 1].view(3, 1, 1) / HEIGHT
            boxes.append(torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1).view(1, -1, 1, 4))
            sure = y[:, 4:5].sigmoid() * y[:, 5:].sigmoid()
            confidences.append(sure.permute(0, 2, 3, 1).reshape(1, -1, CLASSES))
        return torch.cat(boxes, 1), torch.cat(confidences, 1)

    export(Wrapped(model, decoded), RGB_01, folder, ["boxes", "confs"])
    return Made(
        "yolov4",
        "YOLOv4-tiny (Darknet's public-domain configuration, by LibreYOLO), narrowed, with boxes and confs",
        versions("libreyolo", "torchvision") + ", from the two raw maps",
        lambda threshold: of_dict(postprocess(maps, specs, threshold, IOU, WIDTH, None, 1.0, MANY)),
        ["boxes", "confs"],
        RGB_01,
        {"boxes": "normalised"},
    )
