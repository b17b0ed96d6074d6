"""CAMs against their papers' formulas in plain loops, for feature maps and for tokens."""

import pytest
import torch
from torch import nn

from faithfulness.attribution import create_attribution
from faithfulness.backbones import Backbone
from faithfulness.core import InputError
from faithfulness.core.keyed import keyed_normal, make_keys
from tests.reference import plain_cams
from tests.reference.tiny_models import tiny_batch, tiny_model

PLAIN = {
    "gradcam": plain_cams.grad_cam,
    "gradcampp": plain_cams.grad_cam_plus_plus,
    "xgradcam": plain_cams.x_grad_cam,
    "layercam": plain_cams.layer_cam,
    "ablationcam": plain_cams.ablation_cam,
    "scorecam": plain_cams.score_cam,
    "gradcampp(variant=torchcam)": plain_cams.torchcam_plus_plus,
    "scorecam(weighting=classes)": plain_cams.score_cam_of_classes,
}
OF_TOKENS = ("gradcam", "gradcampp", "xgradcam", "layercam", "ablationcam")


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()), check_dtype=False)


def unscaled(name, cam, logit):
    """The paper's map without its factor per image: exp(logit) in Grad-CAM++, the sign of 1/logit in Ablation-CAM."""
    if name == "gradcampp":
        return cam / logit.exp()
    return cam * logit.sign() if name == "ablationcam" else cam


# float32 bound: the plain loops divide by ΣA and by y in another order of rounding.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("relu", [True, False])
def test_cams_of_feature_maps(name, relu, dtype, tolerance):
    model = tiny_model("plain").to(dtype)
    images, targets = tiny_batch(side=14, dtype=dtype)
    maps = create_attribution(name, model, relu=relu, chunk=5)(images, targets)
    logits = model(images).gather(1, targets[:, None]).flatten().detach()
    assert logits.min() < 0 < logits.max()
    for image, target, logit, ours in zip(images, targets, logits, maps, strict=True):
        cam = unscaled(name, PLAIN[name](model.features, model.head, image, int(target)), logit)
        close(ours[0], cam.relu() if relu else cam, tolerance)


@pytest.mark.parametrize("name", OF_TOKENS)
@pytest.mark.parametrize("layer", ["middle", "final"])
def test_cams_of_tokens(name, layer):
    """The map of the patch tokens stands for the feature map; the class token stays as it is."""
    model = tiny_model("vit").double()
    images, targets = tiny_batch(dtype=torch.float64)
    split = model.split(layer)
    maps = create_attribution(name, model, layer, relu=False)(images, targets)
    for image, target, ours in zip(images, targets, maps, strict=True):
        prefix = split.stem(image[None])[:, :1]

        def head(feature_map, prefix=prefix):
            return split.rest(torch.cat([prefix, feature_map.flatten(2).transpose(1, 2)], dim=1))

        def features(batch):
            return split.to_map(split.stem(batch))

        logit = model(image[None])[0, target].detach()
        cam = unscaled(name, PLAIN[name](features, head, image, int(target)), logit)
        close(ours[0], cam, 1e-8)  # float64; XGrad-CAM divides by sums that cancel


def test_smooth_grad_cam_plus_plus():
    model = tiny_model("plain").double()
    images, targets = tiny_batch(2, side=14, dtype=torch.float64)
    maps = create_attribution("sg-campp(samples=3, noise=0.4, seed=5, relu=False)", model, chunk=4)(images, targets)
    noises = [0.4 * keyed_normal(make_keys(5, k), (3, 14, 14)).double() for k in range(3)]
    for image, target, ours in zip(images, targets, maps, strict=True):
        cam = plain_cams.smooth_grad_cam_plus_plus(model.features, model.head, image, int(target), noises)
        close(ours[0], cam, 1e-9)


def test_smooth_grad_cam_plus_plus_as_torchcam_has_it():
    model = tiny_model("plain").double()
    images, targets = tiny_batch(2, side=14, dtype=torch.float64)
    text = "sg-campp(samples=3, noise=0.4, seed=5, relu=False, variant=torchcam)"
    maps = create_attribution(text, model, chunk=4)(images, targets)
    noises = [0.4 * keyed_normal(make_keys(5, k), (3, 14, 14)).double() for k in range(3)]
    for image, target, ours in zip(images, targets, maps, strict=True):
        cam = plain_cams.torchcam_smooth_plus_plus(model.features, model.head, image, int(target), noises)
        close(ours[0], cam, 1e-9)


def test_unknown_variants_are_refused():
    for text in ("gradcampp(variant=other)", "sg-campp(variant=other)", "scorecam(weighting=other)"):
        with pytest.raises(InputError, match=r"unknown .* 'other'; known:"):
            create_attribution(text, tiny_model("plain"))


def test_without_noise_smooth_grad_cam_plus_plus_is_grad_cam_plus_plus():
    model = tiny_model("resnet")
    images, targets = tiny_batch()
    smooth = create_attribution("sg-campp(noise=0.0)", model)(images, targets)
    close(smooth, create_attribution("gradcampp", model)(images, targets), 1e-5)


def test_grad_cam_plus_plus_survives_large_logits_and_small_gradients():
    model = tiny_model("plain")
    images, targets = tiny_batch(side=16)
    usual = create_attribution("gradcampp", model)(images, targets)
    assert usual.max() > 0
    model.head[2].bias.data += 500  # exp(500) is infinite
    assert torch.equal(create_attribution("gradcampp", model)(images, targets), usual)
    model.head[2].weight.data *= 1e-20  # g² is 0 in float32
    assert create_attribution("gradcampp", model)(images, targets).max() > 0


def test_channels_without_contrast_or_activation_weigh_nothing():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :1].relu(), torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1])], dim=1)

    model = Backbone(Flat(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)))
    images, targets = tiny_batch(side=8)
    maps = create_attribution("scorecam", model)(images, targets)
    close(maps, images[:, :1].relu(), 1e-6)  # all the weight is on the one channel that makes a mask
    assert create_attribution("xgradcam", model)(images, targets).isfinite().all()
    model.features = nn.Identity()
    blank = create_attribution("scorecam", Backbone(nn.Identity(), model.head))(torch.ones_like(images), targets)
    assert torch.equal(blank, torch.zeros_like(blank))


def test_ablation_leaves_activations_alone_and_takes_strided_ones():
    model = tiny_model("convnext")
    images, targets = tiny_batch()
    strided = images.contiguous(memory_format=torch.channels_last)
    explain = create_attribution("ablationcam(relu=False)", model)
    close(explain(strided, targets), explain(images, targets), 1e-5)


def test_ablation_refuses_a_map_that_is_no_selection_of_the_activations():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model = Backbone(features, head, to_map=lambda x: x * 2)
    images, targets = tiny_batch(side=8)
    with pytest.raises(InputError, match="channels"):
        create_attribution("ablationcam", model)(images, targets)
