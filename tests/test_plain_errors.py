"Wrong arguments in a session end in one sentence, not in the words of a library below."
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from lth_nb.compact import compact
from lth_nb.models import MODELS, Architecture, Residual, build_model
from lth_nb.parameters import read_parameter
from lth_nb.plan import plan
from lth_nb.recipes import Recipe
from lth_nb.references import resolve_model
from lth_nb.studyfile import EXAMPLE, parse_study
from lth_nb.tickets import TicketRecipe, load_tickets, ticket_header
from lth_nb.transfer import ARMS, arm_mask, arm_weights


@pytest.mark.parametrize("made, words", [
    (lambda: Recipe(lr=0), "Recipe: lr = 0: Input should be greater than 0"),
    (lambda: Recipe(epochs=3), "Recipe: epochs = 3: there is no such field; its fields are length, "),
    (lambda: replace(Recipe(), batch_size=0), "Recipe: batch_size = 0: "),
    (lambda: TicketRecipe(rate=5), "TicketRecipe: rate = 5: "),
    (lambda: TicketRecipe(training={"lr": -1}), "TicketRecipe: training.lr = -1: "),
])
def test_recipes_say_in_one_line_what_is_wrong(made, words):
    with pytest.raises(ValueError, match=words.replace(".", "\\.")) as e: made()
    assert "\n" not in str(e.value) and "pydantic" not in str(e.value)


@pytest.mark.parametrize("read", [load_tickets, ticket_header])
@pytest.mark.parametrize("path", [None, 3, b"seed0.safetensors"])
def test_a_ticket_file_is_given_by_its_path(read, path):
    with pytest.raises(TypeError, match="pass the path of a ticket file"): read(path)


def test_arms_without_their_tickets():
    with pytest.raises(ValueError, match="arm 'ticket' needs tickets found on a source: pass source="):
        arm_mask(ARMS["ticket"], 1, 0, None, None)
    with pytest.raises(ValueError, match="arm 'mask_only' needs tickets found on the target itself: pass target="):
        arm_weights(ARMS["mask_only"], 1, None, None)


@pytest.mark.parametrize("channels, stride, bottleneck", [(3, 1, False), (8, 1, False), (3, 2, True)])
def test_a_network_that_begins_with_a_residual_block_becomes_compact(channels, stride, bottleneck):
    def build(channels, image_size):
        block = Residual(channels, 8, stride, bottleneck)
        return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()), block.out_channels
    MODELS["residual_first"] = Architecture(build, halvings=0, origin="a test")
    try: net = build_model("residual_first", 5, 12, channels).eval()
    finally: del MODELS["residual_first"]
    name, weight = next((n, p) for n, p in net.named_parameters() if p.dim() == 4)
    mask = {name: torch.ones_like(weight, dtype=torch.bool)}
    mask[name][:5] = False
    small, images = compact(net, mask), torch.randn(4, channels, 12, 12)
    with torch.no_grad():
        weight[:5] = 0
        torch.testing.assert_close(small(images), net(images), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_builder_may_lie_behind_a_link_of_another_suffix(tmp_path):
    (tmp_path/"net.txt").write_text("from torch import nn\ndef build(channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))\n")
    (tmp_path/"net.py").symlink_to(tmp_path/"net.txt")
    assert build_model(resolve_model(f"{tmp_path}/net.py:build"), 3, 12, 3).head.out_features == 3


def test_a_head_is_taken_off_or_refused():
    assert build_model(resolve_model("timm:resnet18?head=none"), 10, 32, 3).head.in_features == 512
    with pytest.raises(ValueError, match="head='none' would train on class scores"):
        build_model(resolve_model("torchvision:resnet18?head=none"), 10, 32, 3)
    with pytest.raises(ValueError, match="timm has no classifier 'ResNet18'; it has resnet18, "):
        resolve_model("timm:ResNet18")


def test_large_seeds_are_not_rounded():
    assert read_parameter("seeds", 2**53 + 1) == read_parameter("seeds", str(2**53 + 1)) == [2**53 + 1]
    with pytest.raises(ValueError, match="parameter seeds = "): read_parameter("seeds", 2**63)


def test_a_plan_of_a_huge_batch_or_image_needs_no_memory():
    huge = EXAMPLE.replace("batch_size: 32", f"batch_size: {10**9}")
    assert (plan(parse_study(yaml.safe_load(huge), "huge.yaml")).hours > 0).all()
    with pytest.raises(ValueError, match="image_size = 100000: Input should be less than or equal to 4096"):
        parse_study({**yaml.safe_load(EXAMPLE), "image_size": 100_000}, "large.yaml")
