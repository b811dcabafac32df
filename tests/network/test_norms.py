"""Levelled norms: beside the formulas written out, on networks of every family, and their table."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import Case
from torch import nn

from asyndm.core.parametrisation import EpsParametrisation
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.network import RowsMismatch, UnsupportedNetwork, attach
from asyndm.network.calibrate import TIMESTEPS, from_latents, from_walk
from asyndm.network.field import TimestepField
from asyndm.network.norm_table import MOST_FILES, NormTable, NormTables, norms_of
from asyndm.network.norms import FORMS, LevelledNorms, Reach

ALPHAS = torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64)


def norm_and_input(size: float = 1.0, seed: int = 0, eps: float = 1e-5, channels: int = 12):
    """A group norm, an input of two levels of noise, and the table of its group statistics."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.GroupNorm(4, channels, eps=eps)
    norm.weight.data = 1 + 0.3 * torch.randn(channels, generator=generator)
    norm.bias.data = torch.randn(channels, generator=generator)
    mean = 2 * torch.randn(2, 2, 4, generator=generator)
    deviation = 0.5 + 2 * torch.rand(2, 2, 4, generator=generator)
    table = NormTable.of([("0", 4)], torch.tensor([0.0, 999.0]), mean, deviation**2)
    index = torch.zeros(2, 6, 8, dtype=torch.long)
    index[0, :, 4:] = 1
    index[1, 2:5, 1:4] = 1
    # Exactly the table's mean and deviation in every group, at every level, times ``size``.
    x = torch.randn(2, 4, channels // 4, 6, 8, generator=generator)
    m, d = table.mean.float()[1], table.deviation.float()[1]
    for image in range(2):
        for level in range(2):
            for group in range(4):
                at = index[image] == level
                values = x[image, group][:, at]
                values = (values - values.mean()) / values.std(unbiased=False)
                x[image, group][:, at] = (values * d[level, group] + m[level, group]) * size
    return norm, x.flatten(1, 2), table, index


def call_of(index, timesteps=(0.0, 999.0), rows=None):
    table = torch.tensor(timesteps)
    rows = rows or Rows.only_cond(len(index))
    time = PixelTime(torch.linspace(0.1, 9, len(table)), index, table, tuple(index.shape[-2:]))
    return NetworkCall(time, table, rows)


def levelled(norm, x, table, call, form="scaled", reach=None):
    """The norm's output with levelled norms, as a network's hooks have it."""
    norms = LevelledNorms(table, form=form, reach=reach)
    network = nn.Sequential(norm)
    handles = norms.watch(network)
    field = TimestepField(
        call.pixel_time, call.timestep_table, call.rows.image, call.rows.images, x.device
    )
    norms.begin(field, call.rows)
    out = network(x)
    norms.forget()
    for handle in handles:
        handle.remove()
    return out


def written_out(norm, x, table, call, form):
    """The formulas, pixel by pixel and group by group, in double precision."""
    x, out = x.double(), torch.empty_like(x, dtype=torch.float64)
    per = x.shape[1] // norm.num_groups
    mean, var = table.mean.double(), table.deviation.double() ** 2
    for row, (image, part) in enumerate(zip(call.rows.images, call.rows.parts)):
        index = call.pixel_time.index_at(*x.shape[-2:])[image]
        kind = 0 if part == -1 else 1
        for group in range(norm.num_groups):
            channels = slice(group * per, (group + 1) * per)
            values = x[row, channels]
            mu, s2 = values.mean(), values.var(unbiased=False)
            m, v = mean[kind, index, group], var[kind, index, group]
            pooled = (v + (m - m.mean()) ** 2).mean()
            step = (s2 / pooled).sqrt() if form == "scaled" else 1.0
            own_mean, own_var = mu + step * (m - m.mean()), s2 * v / pooled
            out[row, channels] = (values - own_mean) / (own_var + norm.eps).sqrt()
    weight, bias = norm.weight.double()[:, None, None], norm.bias.double()[:, None, None]
    return out * weight + bias


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1.0, 1.5])
def test_both_forms_are_the_formulas(form, size):
    norm, x, table, index = norm_and_input(size)
    call = call_of(index, rows=Rows.of([0, 1, 1], [0, 0, -1]))
    x = torch.cat([x, x[1:] + 0.3])
    expected = written_out(norm, x, table, call, form)
    torch.testing.assert_close(
        levelled(norm, x, table, call, form).double(), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("form", "at_least", "at_most"), [("shifted", 0.3, 2), ("scaled", 0, 0.01)]
)
def test_at_another_size_of_activations_the_scaled_form_stays_exact(form, at_least, at_most):
    """Every pixel at its own level: mean 0 and variance 1, whatever the size. Errors in sd."""
    norm, x, table, index = norm_and_input(size=1.5)
    norm.weight.data.fill_(1), norm.bias.data.fill_(0)
    out = levelled(norm, x, table, call_of(index), form).unflatten(1, (4, -1))
    off = []
    for level in range(2):
        for image in range(2):
            off.append(out[image][..., index[image] == level].mean((1, 2)).square())
    error = torch.stack(off).mean().sqrt()
    assert at_least <= error <= at_most


def test_at_the_calibrations_size_both_forms_are_exact():
    norm, x, table, index = norm_and_input()
    norm.weight.data.fill_(1), norm.bias.data.fill_(0)
    for form in FORMS:
        out = levelled(norm, x, table, call_of(index), form).unflatten(1, (4, -1))
        for level in range(2):
            values = out[0][..., index[0] == level]
            assert values.mean((1, 2)).abs().max() < 2e-3
            assert (values.std((1, 2), unbiased=False) - 1).abs().max() < 2e-3
        plain = norm(x).unflatten(1, (4, -1))[0][..., index[0] == 1]
        assert plain.mean((1, 2)).abs().max() > 0.1


@pytest.mark.parametrize("rows", [2000, 3, 60])
def test_many_noise_levels_are_as_good_as_few(rows):
    """One a cell, one a pixel of a small resolution, a table: the same numbers."""
    norm, x, table, _ = norm_and_input()
    index = torch.randint(3, (2, 6, 8), generator=torch.Generator().manual_seed(1))
    few = call_of(index, (10.0, 400.0, 990.0))
    spread = torch.arange(rows) % 3
    own = 3 * torch.randint(rows // 3, index.shape) + index
    many = call_of(own, tuple(few.timestep_table[spread].tolist()))
    together = levelled(norm, x, table, few)
    torch.testing.assert_close(levelled(norm, x, table, many), together)
    small = x[..., ::2, ::2]
    torch.testing.assert_close(
        levelled(norm, small, table, many), levelled(norm, small, table, few)
    )


def test_norm_by_norm_is_all_at_once(monkeypatch):
    norm, x, table, index = norm_and_input()
    together = levelled(norm, x, table, call_of(index))
    monkeypatch.setattr("asyndm.network.norms._MOST", 0)
    assert torch.equal(levelled(norm, x, table, call_of(index)), together)


@pytest.mark.parametrize("form", FORMS)
def test_one_timestep_changes_nothing(form):
    norm, x, table, index = norm_and_input()
    with torch.no_grad():
        torch.testing.assert_close(
            levelled(norm, x, table, call_of(index, (300.0, 300.0)), form), norm(x), atol=4e-6,
            rtol=1e-5,
        )  # fmt: skip


def test_reach_of_objects_and_of_disparities():
    norm, x, table, index = norm_and_input()
    call, plain = call_of(index), norm(x)
    everywhere = levelled(norm, x, table, call)
    objects = levelled(norm, x, table, call, reach=Reach(objects_only=True))
    at = (index == 1)[:, None].expand_as(x)
    assert torch.equal(objects[at], everywhere[at])
    torch.testing.assert_close(objects[~at], plain[~at])
    assert (everywhere - plain)[~at].abs().mean() > 0.1
    far = levelled(norm, x, table, call, reach=Reach(disparity=1000))
    torch.testing.assert_close(far, plain)
    assert torch.equal(levelled(norm, x, table, call, reach=Reach(disparity=900)), everywhere)


def table_of(case: Case, seed: int = 3) -> NormTable:
    layers = [(name, norm.num_groups) for name, norm in norms_of(case.unet).items()]
    shape = (2, 2, sum(groups for _, groups in layers))
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator)
    return NormTable.of(
        layers, torch.tensor([0.0, 999.0]), mean, 0.5 + torch.rand(shape, generator=generator)
    )


def mixed_call(case: Case, rows: int, timesteps=(5.0, 400.0, 900.0)) -> NetworkCall:
    grid = torch.randint(len(timesteps), (rows, 4, 4), generator=torch.Generator().manual_seed(5))
    table = torch.tensor(timesteps)
    time = PixelTime(torch.linspace(0.1, 9, len(table)), grid, table, case.size)
    return NetworkCall(time, table, Rows.only_cond(rows))


def test_in_a_network_every_norm_is_levelled_and_hooks_go(small: Case):
    case = small
    inputs, call = case.inputs(2), mixed_call(case, 2)
    before = hook_count(case.unet)
    with attach(case.unet, call):
        host = case(inputs, 900.0)
    norms = LevelledNorms(table_of(case))
    with attach(case.unet, call, norms=norms):
        assert hook_count(case.unet) > before + len(norms_of(case.unet))
        out = case(inputs, 900.0)
        assert torch.equal(case(inputs, 900.0), out)
        alone = {name: value[:1] for name, value in inputs.items()}
        one = dataclasses.replace(call.pixel_time, index=call.pixel_time.index[:1])
        call.pixel_time, call.rows = one, Rows.only_cond(1)
        torch.testing.assert_close(case(alone, 900.0), out[:1], rtol=1e-3, atol=1e-3)
    assert hook_count(case.unet) == before
    assert not torch.allclose(out, host, rtol=1e-2, atol=1e-2)


def test_without_mixed_levels_the_modules_own_outputs_stay(small: Case):
    """Uniform in one table row, or synchronous: bit for bit, and the output's very object."""
    inputs, norms = small.inputs(2), LevelledNorms(table_of(small))
    plain = small(inputs, 400.0)
    call = mixed_call(small, 2, (400.0,))
    with attach(small.unet, call):
        uniform = small(inputs, 400.0)
    with attach(small.unet, call, norms=norms):
        assert torch.equal(small(inputs, 400.0), uniform)
        norm = next(iter(norms_of(small.unet).values()))
        assert norms._after(norm, (), plain) is None
    with attach(small.unet, NetworkCall(), norms=norms):
        assert torch.equal(small(inputs, 400.0), plain)


def hook_count(unet: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def test_a_walk_has_all_timesteps_and_both_kinds_and_leaves_nothing(small: Case):
    inputs, before = small.inputs(2), hook_count(small.unet)
    args, kwargs = call_form(small, inputs)
    said = []
    few = {"pictures": 2, "timesteps": (0, 500, 999)}
    table = from_walk(
        small.unet,
        args,
        kwargs,
        Rows.uncond_then_cond(1),
        EpsParametrisation(ALPHAS),
        report=lambda done, of: said.append((done, of)),
        **few,
    )
    assert hook_count(small.unet) == before
    assert table.timesteps.tolist() == [0, 500, 999] and TIMESTEPS[-1] == 999
    assert said == [(done, 6) for done in range(6)]
    assert table.fits(small.unet) and not torch.equal(table.mean[0], table.mean[1])
    again = from_walk(
        small.unet, args, kwargs, Rows.uncond_then_cond(1), EpsParametrisation(ALPHAS), **few
    )
    assert again.name == table.name
    only_cond = from_walk(
        small.unet, args, kwargs, Rows.only_cond(2), EpsParametrisation(ALPHAS), **few
    )
    assert torch.equal(only_cond.mean[0], only_cond.mean[1])


def call_form(case: Case, inputs):
    """(args, kwargs) of a network call as hosts make it."""
    times = torch.zeros(len(inputs["x"]))
    if case.ldm:
        context = inputs["context"]
        context = context if case.depth == 1 else [context] * case.depth
        return (inputs["x"], times), {"context": context, "y": inputs.get("y")}
    more = {}
    if case.vector:
        more["added_cond_kwargs"] = {"text_embeds": inputs["y"], "time_ids": inputs["time_ids"]}
    return (inputs["x"], times), {"encoder_hidden_states": inputs["context"], **more}


def test_an_error_in_the_walk_leaves_no_hook(small: Case):
    before = hook_count(small.unet)
    args, kwargs = call_form(small, small.inputs(2))

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        from_walk(
            small.unet, args, kwargs, Rows.only_cond(2), EpsParametrisation(ALPHAS), report=stop
        )
    assert hook_count(small.unet) == before


def test_the_table_is_found_at_the_first_mixed_call_and_only_then(small: Case):
    asked = []

    def find(unet, args, kwargs, rows):
        asked.append(rows)
        return table_of(small)

    norms, inputs = LevelledNorms(find=find), small.inputs(2)
    with attach(small.unet, NetworkCall(rows=Rows.only_cond(2)), norms=norms):
        small(inputs, 400.0)
    assert not asked
    ready = LevelledNorms(table_of(small))
    call = mixed_call(small, 2)

    with attach(small.unet, call, norms=LevelledNorms(find=find)):
        first = small(inputs, 400.0)
        small(inputs, 400.0)
    assert asked == [call.rows]
    with attach(small.unet, call, norms=ready):
        assert torch.equal(small(inputs, 400.0), first)


def test_statistics_of_latents_are_those_of_the_norms_inputs():
    norm = nn.GroupNorm(2, 4)
    network = nn.Sequential(norm)
    latents = torch.randn(6, 4, 8, 8) * 3 + 1
    table = from_latents(lambda x, t: network(x), network, latents, [-1, -1, -1, 0, 0, 0],
                         ALPHAS.float(), (0, 999))  # fmt: skip
    groups = latents.unflatten(1, (2, 2)).flatten(2)
    assert table.mean[1, 0].float() == pytest.approx(groups[3:].mean(2).mean(0), abs=0.02)
    deviation = groups[:3].var(2, unbiased=False).mean(0).sqrt()
    assert table.deviation[0, 0].float() == pytest.approx(deviation, rel=0.01)
    assert table.deviation[1, 1].float() == pytest.approx(torch.ones(2), rel=0.15)


def test_tables_are_kept_whole_and_at_most_twenty(tmp_path):
    norm, _, table, _ = norm_and_input()
    network, folder = nn.Sequential(norm), tmp_path / "norms"
    tables = NormTables(folder)
    assert tables.get(["a"], network) is None
    for i in range(MOST_FILES + 3):
        assert tables.put([f"{i}", "x"], table) == ""
    files = sorted(folder.iterdir())
    assert len(files) == MOST_FILES and all(f.suffix == ".safetensors" for f in files)
    afresh = NormTables(folder)
    again = afresh.get([f"{MOST_FILES + 2}", "x"], network)
    assert again.name == table.name and again.layers == table.layers
    assert afresh.get([f"{MOST_FILES + 2}", "y"], network) is None
    assert afresh.get([f"{MOST_FILES + 2}", "x"], nn.Sequential(nn.GroupNorm(2, 12))) is None
    path = folder / f"{NormTables.key(['5', 'x'])}.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    assert NormTables(folder).get(["5", "x"], network) is None


def test_a_folder_that_cannot_be_written_is_said_and_the_table_used(tmp_path):
    norm, _, table, _ = norm_and_input()
    (tmp_path / "file").write_text("")
    tables = NormTables(tmp_path / "file" / "norms")
    assert "cannot be written" in tables.put(["a"], table)
    assert tables.get(["a"], nn.Sequential(norm)) is table


def test_what_cannot_be_done_is_one_line(small: Case):
    with pytest.raises(UnsupportedNetwork, match="transformer"):
        LevelledNorms(table_of(small)).watch(nn.Sequential(nn.LayerNorm(4)))
    with pytest.raises(UnsupportedNetwork, match="another network's"):
        LevelledNorms(table_of(small)).watch(nn.Sequential(nn.GroupNorm(1, 2)))
    with pytest.raises(UnsupportedNetwork, match="too large"):
        NormTable.of([("0", 1)], torch.tensor([0.0, 9.0]), torch.full((2, 2, 1), 1e6),
                     torch.ones(2, 2, 1))  # fmt: skip
    with pytest.raises(ValueError, match="form"):
        LevelledNorms(table_of(small), form="sideways")
    norm, x, table, index = norm_and_input()
    with pytest.raises(RowsMismatch, match="3 rows"):
        levelled(norm, torch.cat([x, x[:1]]), table, call_of(index))
