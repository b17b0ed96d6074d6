"""gpa, ega, region and dea on segmentation targets and on classifiers, against slow restatements."""

import copy

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from dea import DualEvidence
from faithfulness.attribution import ATTRIBUTIONS, create_attribution, list_attributions
from faithfulness.attribution.dual_evidence import FUSIONS, fuse_evidence, scale_to_one
from faithfulness.attribution.spec import parameters_of
from faithfulness.backbones import Backbone, SegmentationTarget, Split, create_backbone, create_segmenter
from faithfulness.core import InputError, PatchGrid
from tests.reference import dea_slow

CLASSES = 4


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return create_segmenter(
        "resnet10t",
        CLASSES,
        input_size=64,
        channels=(8, 12, 16, 24),
        stem_width=8,
        zero_init_last=False,
    ).eval()


@pytest.fixture(scope="module")
def dense():
    """A segmentation network of the user's own: logits at image size from two modules."""
    torch.manual_seed(1)
    features = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
    )
    head = nn.Sequential(nn.Conv2d(8, CLASSES, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
    return Backbone(features, head, {"middle": "1", "final": "3"}).eval()


def pairs(count=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    regions = torch.rand(count, size, size, generator=generator) < 0.3
    classes = torch.arange(count) % CLASSES
    return images, regions, classes


def run(name, model, images, regions, classes, **parameters):
    target = SegmentationTarget(model, regions, classes)
    return create_attribution(name, target, **parameters)(images, target.targets)


@pytest.mark.parametrize("kind", ["gpa", "ega"])
def test_gradient_evidence_agrees_with_the_slow_restatement(dense, kind):
    images, regions, classes = pairs()
    maps = run(kind, dense, images, regions, classes)
    assert maps.shape == (3, 1, 8, 8)
    for i in range(3):

        def score(a, i=i):
            return dense.head(a)[0, classes[i]][regions[i]].mean()

        expected = dea_slow.gradient_evidence(kind, dense.features, score, images[i])
        torch.testing.assert_close(maps[i, 0], expected, rtol=1e-5, atol=1e-6)
    assert (maps >= 0).all()
    assert maps.amax() > 0


def test_gpa_equals_captums_grad_cam_of_the_region_mean(dense):
    images, regions, classes = pairs()

    def forward(x):
        logits = dense(x)[torch.arange(3), classes]
        return (logits * regions).sum(dim=(1, 2)) / regions.sum(dim=(1, 2))

    expected = LayerGradCam(forward, dense.features[3]).attribute(images, relu_attributions=True)
    torch.testing.assert_close(run("gpa", dense, images, regions, classes), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", [2, 4])
def test_region_agrees_with_the_slow_restatement(dense, grid):
    images, regions, classes = pairs()
    maps = run("region", dense, images, regions, classes, grid=grid)
    assert maps.shape == (3, 1, 16, 16)
    for i in range(3):

        def score(x, i=i):
            return dea_slow.region_logit(dense, x, regions[i], classes[i])

        torch.testing.assert_close(maps[i, 0], dea_slow.intervention(score, images[i], grid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpa", "ega"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.4])
def test_dea_agrees_with_the_slow_restatement(dense, kind, weight):
    images, regions, classes = pairs()
    maps = run("dea", dense, images, regions, classes, grid=4, gradient=kind, lambda_=weight)
    for i in range(3):

        def score(x, i=i):
            return dea_slow.region_logit(dense, x, regions[i], classes[i])

        def score_of_features(a, i=i):
            return dense.head(a)[0, classes[i]][regions[i]].mean()

        gradients = dea_slow.gradient_evidence(kind, dense.features, score_of_features, images[i])
        expected = dea_slow.dual_evidence(gradients, dea_slow.intervention(score, images[i], 4), weight)
        torch.testing.assert_close(maps[i, 0], expected, rtol=1e-4, atol=1e-5)


def test_fusion_on_paper():
    gradients = torch.tensor([[[[1.0, 0.0, 1.0, 0.5]]]])
    drops = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    # I + λ·(1 − |G − I|)·G: both agree 2; only I 1; only G 0; half a gradient without a drop 1/4.
    expected = torch.tensor([[[[2.0, 1.0, 0.0, 0.25]]]]) / 2
    torch.testing.assert_close(fuse_evidence(gradients, drops, 1.0), expected)
    torch.testing.assert_close(fuse_evidence(gradients, drops, 0.0), drops)
    assert (scale_to_one(torch.zeros(2, 1, 3, 3)) == 0).all()


def test_the_other_fusions_on_paper():
    gradients = torch.tensor([[[[1.0, 0.0, 1.0, 0.5]]]])
    drops = torch.tensor([[[[1.0, 1.0, 0.0, 0.5]]]])
    # I·(1 + λ·a·G): both agree 2; only I 1; only G 0; a half of each 1/2 + 1/4.
    gated = torch.tensor([[[[2.0, 1.0, 0.0, 0.75]]]]) / 2
    torch.testing.assert_close(fuse_evidence(gradients, drops, 1.0, "gated"), gated)
    torch.testing.assert_close(fuse_evidence(gradients, drops, 0.0, "gated"), drops)
    product = torch.tensor([[[[1.0, 0.0, 0.0, 0.25]]]])
    torch.testing.assert_close(fuse_evidence(gradients, drops, 1.0, "product"), product)


def falls(values, dim):
    return bool((values.diff(dim=dim) < -1e-12).any())


@pytest.mark.parametrize("lambda_", [0.5, 1.0])
@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_what_is_monotone_in_either_evidence(fusion, lambda_):
    """Over all pairs of G (rows) and I (columns) in [0, 1]."""
    levels = torch.linspace(0, 1, 101, dtype=torch.float64)
    fused = FUSIONS[fusion](levels[:, None], levels[None], lambda_)
    assert not falls(fused, 1)  # more drop never lowers the map
    assert falls(fused, 0) == (fusion != "product")
    beyond = levels[:, None] > (1 + levels) / 2  # where G exceeds I by more than half of what is left
    assert not falls(fused.masked_fill(beyond, torch.inf), 0)
    fall = fused.max(dim=0).values - fused[-1]  # what the strongest gradient loses
    bound = {"sum": lambda_ * (1 - levels) ** 2 / 4, "gated": lambda_ * levels * (1 - levels) ** 2 / 4}
    assert (fall <= bound.get(fusion, 0 * levels) + 1e-12).all()
    if fusion != "sum":
        assert (fused[:, 0] == 0).all()  # no drop, no attribution


def test_lambda_0_is_the_region_intervention_and_lambda_1_is_not(segmenter):
    images, regions, classes = pairs(size=64)
    alone = run("region", segmenter, images, regions, classes)
    without = run("dea(lambda_=0)", segmenter, images, regions, classes)
    torch.testing.assert_close(without, alone, rtol=0, atol=0)
    fused = run("dea", segmenter, images, regions, classes)
    assert (fused - alone).abs().max() > 0.01
    assert fused.shape == (3, 1, 64, 64)
    torch.testing.assert_close(fused.amax(dim=(1, 2, 3)), torch.ones(3))
    assert fused.min() >= 0


def test_a_cell_that_alone_is_read_is_the_whole_map():
    """The network reads one cell of a 4×4 grid; gradients of a dead ReLU elsewhere change nothing."""

    class OneCell(nn.Module):
        def forward(self, images):
            seen = images[:, :1, 4:8, 8:12].mean(dim=(2, 3), keepdim=True).expand(-1, -1, 16, 16)
            return torch.cat([torch.zeros_like(seen), seen], dim=1)

    images = torch.ones(1, 3, 16, 16)
    regions = torch.zeros(1, 16, 16, dtype=torch.bool)
    regions[:, 12:, :4] = True
    maps = run("region", OneCell(), images, regions, torch.tensor([1]), grid=4)
    expected = torch.zeros(1, 1, 16, 16)
    expected[:, :, 4:8, 8:12] = 1
    torch.testing.assert_close(maps, expected)
    fused = run("dea", OneCell(), images, regions, torch.tensor([1]), grid=4, source_layer="input")
    torch.testing.assert_close(fused, expected)
    gain = run("region", OneCell(), images, regions, torch.tensor([0]), grid=4)
    assert (gain == 0).all()


@pytest.mark.parametrize(("height", "width"), [(10, 7), (3, 16), (64, 64)])
def test_cells_cover_every_position_and_differ_by_a_pixel(segmenter, height, width):
    _, regions, classes = pairs(size=64)
    explain = create_attribution("region", SegmentationTarget(segmenter, regions, classes))
    index = explain.cell_index(height, width)
    rows, cols = min(8, height), min(8, width)
    counts = torch.bincount(index.flatten(), minlength=rows * cols).view(rows, cols)
    assert index.shape == (height, width)
    assert (counts > 0).all()
    assert counts.max() <= (height // rows + 1) * (width // cols + 1)
    if height % 8 == 0 and width % 8 == 0:
        mask = PatchGrid(8, 8).mask(torch.tensor([11]), height, width)[0, 0]
        torch.testing.assert_close(index == 11, mask)


@pytest.mark.parametrize("name", sorted(list_attributions()))
def test_every_attribution_runs_on_segmentation_and_batched_equals_one_by_one(segmenter, name):
    images, regions, classes = pairs(size=64)
    images, model = images.double(), copy.deepcopy(segmenter).double()
    regions[1] = regions[0].flip(0)
    images[1] = images[0]  # one image, two regions
    small = {"masks": 8, "samples": 2, "steps": 3, "grid": 4}
    parameters = {key: value for key, value in small.items() if key in parameters_of(name)}
    target = SegmentationTarget(model, regions, classes)
    try:
        explain = create_attribution(name, target, chunk=5, **parameters)
    except InputError as error:
        pytest.skip(f"needs another architecture: {error}")
    together = explain(images, target.targets)
    assert together.shape[:2] == (3, 1)
    assert together.isfinite().all()
    assert not together.requires_grad
    some = torch.tensor([2, 0])
    torch.testing.assert_close(explain(images[some], target.targets[some]), together[some], rtol=0, atol=1e-9)
    for i in range(3):
        one = slice(i, i + 1)
        targets = target.aim(regions[one], classes[one])
        alone = explain(images[one], targets)
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-9)
    if "forward" in explain.needs or "gradients" in explain.needs:
        assert (together[0] != together[1]).any()


@pytest.mark.parametrize("name", ["gpa", "ega", "region", "dea"])
@pytest.mark.parametrize("layer", [None, "input", "middle", "final"])
def test_on_a_classifier_at_every_layer(name, layer):
    torch.manual_seed(0)
    model = create_backbone("test_vit", num_classes=5, input_size=64).double().eval()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    targets = torch.tensor([0, 3, 4])
    small = {"grid": 4} if name in ("region", "dea") else {}
    explain = create_attribution(name, model, layer, **small)
    maps = explain(images, targets)
    where = model.split(explain.layer)
    assert maps.shape[-2:] == where.to_map(where.stem(images)).shape[-2:]
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    for i in range(3):
        alone = create_attribution(name, model, layer, chunk=1, **small)(images[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(alone[0], maps[i], rtol=0, atol=1e-9)


def test_both_kinds_of_evidence_are_of_the_asked_cell():
    """A grid setting has one head per cell; here head 0 reads the left half and head 1 the right one."""

    class TwoHeads(nn.Module):
        def split(self, layer, cell):
            def rest(x):
                half = x[..., :4] if cell == 0 else x[..., 4:]
                return half.relu().sum(dim=(2, 3))

            return Split(layer, lambda x: x, rest)

    images = torch.rand(2, 3, 8, 8) + 0.1
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    for cell, inside in ((0, left), (1, ~left)):
        for weight in (0.0, 1.0):
            explain = create_attribution("dea", TwoHeads(), cell=cell, grid=4, lambda_=weight)
            maps = explain(images, torch.tensor([0, 2]))
            assert (maps[:, 0, inside] > 0).all()
            assert (maps[:, 0, ~inside] == 0).all()


def test_rounding_of_the_logits_is_no_evidence():
    """Logits near 1000 keep 6e-5 in float32: cells that change those digits alone leave no map."""

    class Noisy(nn.Module):
        def forward(self, images):
            mean = images.mean(dim=(2, 3), keepdim=True)[:, :1].expand(-1, -1, *images.shape[-2:])
            return torch.cat([1000 + 1e-3 * mean, mean], dim=1)

    images, regions, _ = pairs()
    images = images.abs()
    for c, there in ((0, False), (1, True)):
        maps = run("region", Noisy(), images, regions, torch.full((3,), c), grid=4)
        assert bool((maps > 0).any()) == there


def test_passes_and_settings_are_recorded(segmenter):
    images, regions, classes = pairs(size=64)
    target = SegmentationTarget(segmenter, regions, classes)
    counted = {"forward": 0}

    def count(module, inputs, output):
        counted["forward"] += len(output)

    last = segmenter.encoder.model.layer4[0].register_forward_hook(count)
    try:
        for explain, expected in (
            (create_attribution("region", target, grid=(2, 4)), 9),
            (DualEvidence(target, grid=(2, 4), gradient="gpa", lambda_=0.5), 10),
            (DualEvidence(target, grid=PatchGrid(2, 4), lambda_=0.0), 9),
        ):
            counted["forward"] = 0
            explain(images, target.targets)
            assert counted["forward"] == 3 * explain.passes.forward == 3 * expected
    finally:
        last.remove()
    explain = DualEvidence(target, grid=(2, 4), fill="mean", gradient="gpa", lambda_=0.5)
    assert explain.settings == {
        "layer": "input",
        "grid": [2, 4],
        "fill": "mean",
        "gradient": "gpa",
        "lambda": 0.5,
        "fusion": "sum",
        "source_layer": "final",
    }
    assert ATTRIBUTIONS["dea"] is DualEvidence
    assert DualEvidence(target).passes == (66, 1)


def test_bad_settings_are_refused(segmenter):
    _, regions, classes = pairs(size=64)
    target = SegmentationTarget(segmenter, regions, classes)
    for text, message in (
        ("dea(gradient=gpu)", "did you mean gpa"),
        ("dea(lambda_=-1)", "lambda_"),
        ("dea(fusion=gate)", "did you mean gated"),
        ("dea(fusion=product, lambda_=2)", "product has no lambda_"),
        ("dea(fill=meen)", "did you mean mean"),
        ("dea(grid=0)", "at least one row"),
        ("region(grid=(1, 2, 3))", "rows, columns"),
        ("region(fill=mean)@middle", "only 'zeros'"),
        ("dea(source_layer=last)", "unknown layer"),
    ):
        with pytest.raises(InputError, match=message):
            create_attribution(text, target)
    with pytest.raises(InputError, match="explained at layer 'input' only"):
        create_attribution("dea", nn.Conv2d(3, 4, 1))
