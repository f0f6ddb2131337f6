"""torchvision's detectors and detection transformers, made tiny, and who answers for each. See make.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.decoder_networks.make import (
    CLASSES,
    HEIGHT,
    IMAGENET,
    RGB_01,
    WIDTH,
    Answer,
    Made,
    Wrapped,
    export,
    liven,
    numpy_answer,
    of_dict,
    tensor,
    versions,
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
