"""The networks themselves, made tiny, and who answers for each. See make.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from tests.decoder_networks.make import (
    BGR_255,
    CLASSES,
    HEIGHT,
    IMAGENET,
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
from tests.decoder_networks.ssd import ssd

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


# ---- anchors: YOLOv7, YOLOv4


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


# ---- torchvision


def _torchvision(folder: Path, model: nn.Module, name: str) -> Made:
    x = tensor(RGB_01)

    def reference(threshold: float) -> Answer:
        with torch.no_grad():
            found = model(x)[0]
        keep = found["scores"] >= threshold
        boxes, scores, labels = (found[k][keep] for k in ("boxes", "scores", "labels"))
        return numpy_answer(boxes, scores, labels - 1)

    def ordered(out: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        return out[0]["boxes"], out[0]["labels"], out[0]["scores"]

    outputs = ["boxes", "labels", "scores"]
    export(Wrapped(model, ordered), RGB_01, folder, outputs)
    return Made("boxes_labels_scores", name, versions("torchvision"), reference, outputs, RGB_01, {"background": True})


def _backbone(seed: int) -> nn.Module:
    layers = nn.Sequential()
    for inside, out in ((3, 8), (8, 12), (12, 16), (16, 8)):
        layers.append(nn.Conv2d(inside, out, 3, stride=2, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(out))
        layers.append(nn.ReLU())
    liven(layers, IMAGENET, seed)
    layers.out_channels = 8
    return layers


def faster_rcnn(folder: Path) -> Made:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(7)
    model = FasterRCNN(
        _backbone(7),
        rpn_anchor_generator=AnchorGenerator(((12, 24, 48),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        box_head=TwoMLPHead(8 * 16, 24),
        box_predictor=FastRCNNPredictor(24, CLASSES + 1),
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_post_nms_top_n_test=60,
        rpn_pre_nms_top_n_test=200,
        box_score_thresh=0.02,
        box_detections_per_img=60,
    ).eval()
    for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.box_predictor.bbox_pred):
        nn.init.normal_(layer.weight, 0, 0.4)
    return _torchvision(folder, model, "Faster R-CNN (torchvision, BSD-3) on a backbone of four convolutions")


def retinanet(folder: Path) -> Made:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead

    torch.manual_seed(8)
    anchors = AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))
    head = RetinaNetHead(8, 6, CLASSES + 1)
    model = RetinaNet(
        _backbone(8),
        CLASSES + 1,
        anchor_generator=anchors,
        head=head,
        min_size=HEIGHT,
        max_size=WIDTH,
        score_thresh=0.02,
        detections_per_img=60,
    ).eval()
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    # Nothing is of class 0: it stands for the background.
    with torch.no_grad():
        head.classification_head.cls_logits.bias.view(6, CLASSES + 1)[:, 0] = -50
    return _torchvision(folder, model, "RetinaNet (torchvision, BSD-3) on a backbone of four convolutions")


# ---- transformers


def _transformer(folder: Path, model: nn.Module, name: str) -> Made:
    from transformers import RTDetrImageProcessor

    x = tensor(RGB_01)
    with torch.no_grad():
        out = model(pixel_values=x)

    def reference(threshold: float) -> Answer:
        size = torch.tensor([[HEIGHT, WIDTH]])
        return of_dict(RTDetrImageProcessor().post_process_object_detection(out, threshold, size)[0])

    outputs = ["pred_boxes", "logits"]
    export(Wrapped(model, lambda o: (o.pred_boxes, o.logits)), RGB_01, folder, outputs)
    return Made(
        "rtdetr",
        name,
        versions("transformers") + ", RTDetrImageProcessor",
        reference,
        outputs,
        RGB_01,
        {"boxes": "normalised", "scores": "logit"},
        # Its attention samples between places, which enlarges the runtimes' differences in rounding.
        tolerance_px=0.1,
    )


_DETR: dict[str, Any] = {
    "num_labels": CLASSES,
    "encoder_hidden_dim": 8,
    "encoder_in_channels": [8, 8, 8],
    "feat_strides": [8, 16, 32],
    "encoder_layers": 1,
    "encoder_ffn_dim": 8,
    "encoder_attention_heads": 2,
    "encode_proj_layers": [2],
    "d_model": 8,
    "num_queries": 40,
    "decoder_in_channels": [8, 8, 8],
    "decoder_ffn_dim": 8,
    "num_feature_levels": 3,
    "decoder_n_points": 2,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 0,
    "anchor_image_size": None,
}


def _untied(model: nn.Module) -> nn.Module:
    """Livened, with no tie between the places that become queries: rounding would choose."""
    for seed in range(10, 40):
        liven(model, RGB_01, seed)
        with torch.no_grad():
            best = model(pixel_values=tensor(RGB_01)).enc_outputs_class[0].max(-1).values.topk(41).values
        if float((best[:-1] - best[1:]).min()) > 2e-4:
            return model
    raise SystemExit("every seed has a tie")


def rtdetr(folder: Path) -> Made:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(backbone_config=backbone, hidden_expansion=0.5, **_DETR)
    return _transformer(
        folder, _untied(RTDetrForObjectDetection(config)), "RT-DETR (transformers, Apache-2.0), narrowed"
    )


def dfine(folder: Path) -> Made:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 8],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 8, 8],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = DFineConfig(
        backbone_config=backbone, hidden_expansion=0.5, **(_DETR | {"decoder_n_points": [2, 2, 2]}), depth_mult=0.34
    )
    return _transformer(folder, _untied(DFineForObjectDetection(config)), "D-FINE (transformers, Apache-2.0), narrowed")


MAKERS: dict[str, Callable[[Path], Made]] = {
    function.__name__: function
    for function in (
        yolov8_layout,
        yolov9_corners,
        yolov9_split,
        yolox_raw,
        yolox_decoded,
        yolov7,
        ssd,
        yolov10_layout,
        faster_rcnn,
        retinanet,
        yolov4,
        rtdetr,
        dfine,
        yolonas,
    )
}
