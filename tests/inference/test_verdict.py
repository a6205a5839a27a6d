import dataclasses
import math

import modelled
import numpy as np
import pytest

from rim_tf.inference import sky, verdict
from rim_tf.inference.optimise import cropped
from rim_tf.inference.verdict import LIMITS, Verdict, judge


@pytest.fixture
def result():
    return modelled.modelled()


def perfect(result, noise=1.0, correlated=False, rng=None):
    """The result as it were if its model were the truth, on a frame of such noise over the noise map."""
    fit = result.source_fit
    rng = rng or np.random.default_rng(3)
    white = rng.normal(size=(3 * 32, 3 * 32))
    if correlated:
        white = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1)) / np.sqrt(3)
    frame = dataclasses.replace(
        result.frame,
        image=noise * 0.05 * white,
        noise=np.full(white.shape, 0.05),
        mask=np.ones(white.shape, bool),
    )
    middle = (96 - fit.observation.shape[0]) // 2
    inner = np.s_[middle : 96 - middle, middle : 96 - middle]
    model = 0.5 * np.exp(-(((np.hypot(*np.indices((20, 20)) - 9.5) - 8) / 2) ** 2)).astype(np.float32)
    seen = dataclasses.replace(fit.observation, image=model + frame.image[inner], noise=frame.noise[inner])
    fit = dataclasses.replace(fit, observation=seen, model_image=model)
    return frame, dataclasses.replace(result.lens_fit, reconstruction=fit)


@pytest.mark.parametrize(("noise", "correlated"), [(1.0, False), (0.6, False), (0.6, True), (2.0, True)])
def test_residuals_that_are_noise_like_that_of_the_sky_raise_no_flag(result, noise, correlated):
    """Whatever the noise map says of it, and however it is correlated."""
    frame, fit = perfect(result, noise, correlated)
    judged = judge(frame, fit, result.estimate)
    assert judged.sky_noise == pytest.approx(noise, rel=0.05)
    # Of many pixels together: three that are alike have a ratio of 1.7, but for what the look at it blurs.
    ratio = judged.correlation_ratio
    assert 1.4 < ratio < 1.75 if correlated else ratio == 1
    assert judged.noise_factor == pytest.approx(max(noise * ratio, 1), rel=0.05)
    assert not {"chi2", "whiteness", "signal"} & set(judged.flags) and judged.explained


def test_what_is_not_explained_raises_its_flags(result):
    frame, fit = perfect(result)
    seen = fit.reconstruction.observation
    arc = np.zeros(seen.shape, np.float32)
    arc[4:8, 8:12] = 0.2
    worse = dataclasses.replace(fit.reconstruction, observation=dataclasses.replace(seen, image=seen.image + arc))
    judged = judge(frame, dataclasses.replace(fit, reconstruction=worse), result.estimate)
    assert {"chi2", "whiteness"} <= set(judged.flags) and not judged.explained and not judged.believed
    # Errors of a lens that is off by more than noise are as much larger.
    figure = judged.figures["chi2"]
    assert figure > 1.25 and judged.noise_factor == pytest.approx(judged.sky_noise * np.sqrt(figure), rel=0.05)
    nothing = dataclasses.replace(judged, figures=judged.figures | {"chi2": np.nan}, sky_noise=0.5)
    assert nothing.noise_factor == 1


def test_galaxies_in_the_sky_do_not_count_as_noise(result):
    frame, fit = perfect(result)
    y, x = np.indices(frame.shape)
    spots = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in ((10, 12), (80, 20), (15, 85)))
    crowded = dataclasses.replace(frame, image=frame.image + spots)
    assert judge(crowded, fit, result.estimate).sky_noise == pytest.approx(1.0, rel=0.05)


def test_in_a_tight_frame_the_noise_is_told_by_what_lies_close_about_the_ring(result):
    """Where that of a drizzled image would raise a flag, less the arcs that are there, too."""
    frame, fit = perfect(result, 0.6, correlated=True)
    tight = cropped(frame, 1.7)
    assert sky.empty(tight, fit.lens) is None
    judged = judge(tight, fit, result.estimate)
    assert judged.sky_noise == pytest.approx(0.6, rel=0.15)
    assert not {"chi2", "whiteness"} & set(judged.flags)
    # Arcs that the model explains are no noise, however bright and far out.
    arcs = np.random.default_rng(0).random(tight.shape).astype(np.float32)
    bright = dataclasses.replace(tight, image=tight.image + arcs)
    explained = dataclasses.replace(fit.reconstruction, observation=bright, model_image=arcs)
    again = judge(bright, dataclasses.replace(fit, reconstruction=explained), result.estimate)
    assert again.sky_noise == pytest.approx(judged.sky_noise, rel=1e-4)


def test_with_too_little_sky_the_noise_map_is_believed(result):
    _, fit = perfect(result, 0.6)
    assert judge(fit.reconstruction.observation, fit, result.estimate).sky_noise == 1.0


def test_what_no_lens_is_like_is_counted(result):
    judged = judge(*perfect(result), result.estimate)
    usual = {name: 0.0 for name in LIMITS} | {"axis_ratio": 0.9, "magnification": 6.0, "signal": 100.0}
    for changes, n in (
        ({}, 0),
        ({"chi2": 9.0, "whiteness": 1.0, "starts": 1.0, "together": 1.0}, 0),
        ({"core": 0.6, "magnification": 2.0, "estimator": 6.0}, 3),
        ({"core": math.nan}, 1),
    ):
        assert dataclasses.replace(judged, figures=usual | changes).n_nonsense == n


def test_ends_that_fit_as_well_and_differ_are_said(result):
    frame, fit = perfect(result)
    lens = fit.lens.as_tuple()
    other = (1.1 * lens[0], *lens[1:])
    for chi2, flagged in (([1.0, 1.001], True), ([1.0, 0.8], True), ([1.0, 1.5], False)):
        both = dataclasses.replace(fit, ends={"chi2_per_pixel": chi2, "lens": [lens, other], "n_pixels": 400})
        judged = judge(frame, both, result.estimate)
        assert ("starts" in judged.flags) == flagged
        assert judged.figures["starts"] == pytest.approx(0.1 if flagged else 0.0)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"e1": 0.6}, "axis_ratio"),
        ({"gamma1": 0.3}, "shear"),
        ({"theta_E": 9.0}, "estimator"),
        ({"x_lens": 1.5}, "off_centre"),
    ],
)
def test_a_lens_that_hardly_exists_is_flagged(result, change, flag):
    frame, fit = perfect(result)
    odd = dataclasses.replace(fit, lens=dataclasses.replace(fit.lens, **change))
    assert flag in judge(frame, odd, result.estimate).flags


@pytest.mark.parametrize(("edge", "more"), [(0.01, ()), (0.05, ("source",)), (0.2, ("source", "lens"))])
def test_a_source_that_lies_at_the_edge_of_its_grid_is_doubted_before_its_lens(result, edge, more):
    frame, fit = perfect(result)
    plain = judge(frame, fit, result.estimate)
    usual = {name: 0.0 for name in LIMITS} | {"axis_ratio": 0.9, "magnification": 6.0, "signal": 100.0}
    judged = dataclasses.replace(plain, figures=usual | {"source_edge": edge})
    assert judged.believed == ("lens" not in more) and judged.source_believed == (not more)
    sentences = judged.sentences()
    assert len(sentences) == (1 if more else 0)
    assert not more or f"{edge:.0%} of the source lies at the edge of its grid" in sentences[0]
    assert ("do not believe flux and size of the source" in "".join(sentences)) == (more == ("source",))


def test_a_source_as_large_as_its_image_is_doubted(result):
    """As behind a lens far too small, which shows the arcs as they are: it fits as well as the right one does."""
    frame, fit = perfect(result)
    image_flux = fit.reconstruction.model_image.sum()
    for magnification, flagged in ((1.5, True), (9.0, False)):
        source = np.zeros_like(fit.reconstruction.source)
        ratio = fit.reconstruction.observation.pixel_scale / fit.reconstruction.source_pixel_scale
        source[6:-6, 6:-6] = image_flux * ratio**2 / magnification / (len(source) - 12) ** 2
        seen = dataclasses.replace(fit, reconstruction=dataclasses.replace(fit.reconstruction, source=source))
        judged = judge(frame, seen, result.estimate)
        assert judged.figures["magnification"] == pytest.approx(magnification, rel=1e-5)
        assert judged.figures["source_size"] == pytest.approx(
            seen.reconstruction.half_light_radius / fit.lens.theta_E
        ) and ("source_size" in judged.flags) == (judged.figures["source_size"] > LIMITS["source_size"])
        assert ("magnification" in judged.flags) == flagged


def test_each_flag_has_a_sentence_with_its_figure():
    beyond = {name: limit / 2 if name in verdict._BELOW else 2 * limit for name, limit in LIMITS.items()}
    judged = Verdict(beyond, 1.0, (0.5, -0.25))
    assert judged.flags == tuple(LIMITS) and not judged.believed
    assert all(f"(flag {name})." in sentence for name, sentence in zip(LIMITS, judged.sentences(), strict=True))
    # What cannot be tested speaks against nothing, but for what a model cannot do without.
    unknown = Verdict(dict.fromkeys(LIMITS, float("nan")), 1.0, (0.0, 0.0))
    assert unknown.flags == ("chi2", "whiteness") and "no pixel of the ring" in unknown.sentences()[0]


def test_a_lens_off_the_centre_is_said_where_it_is_in_the_whole_frame(result):
    frame, fit = perfect(result)
    frame = dataclasses.replace(frame, centre=(0.5, -1.0))
    judged = judge(frame, dataclasses.replace(fit, lens=dataclasses.replace(fit.lens, x_lens=1.5)), result.estimate)
    (sentence,) = (each for each in judged.sentences() if "flag off_centre" in each)
    assert "16% of the frame's width" in sentence and "--centre 2.00,-1.01 " in sentence


def test_where_no_lens_explains_the_image_its_light_tells_where_to_look(result):
    frame, fit = perfect(result)
    y, x = np.indices(frame.shape)
    light = 2 * np.exp(-((x - 70) ** 2 + (y - 35) ** 2) / 30)
    seen = fit.reconstruction.observation
    wrong = dataclasses.replace(fit.reconstruction, observation=dataclasses.replace(seen, image=seen.image + 0.2))
    frame = dataclasses.replace(frame, image=frame.image + light)
    judged = judge(frame, dataclasses.replace(fit, reconstruction=wrong), result.estimate)
    assert {"chi2", "off_centre"} <= set(judged.flags)
    np.testing.assert_allclose(judged.place, (np.array([70, 35]) - 47.5) * frame.pixel_scale, atol=0.05)
    (sentence,) = (each for each in judged.sentences() if "flag off_centre" in each)
    assert sentence.startswith("no lens explains the image, and the middle of its light lies 27%")


def test_a_sky_of_zeros_has_no_noise_to_judge_by(result):
    frame, fit = perfect(result)
    empty = dataclasses.replace(frame, image=0 * frame.image)
    assert judge(empty, fit, result.estimate).sky_noise == 1.0


def test_a_noise_map_that_is_far_off_is_said(result):
    frame, fit = perfect(result, 0.2)
    judged = judge(frame, fit, result.estimate)
    assert "noise_map" in judged.flags and judged.figures["noise_map"] == pytest.approx(5, rel=0.1)


def test_light_at_the_centre_is_doubted_sooner_where_a_galaxy_was(result):
    frame, fit = perfect(result)
    rows, columns = np.indices(fit.reconstruction.model_image.shape)
    spot = np.exp(-(np.hypot(rows - 9.5, columns - 9.5) ** 2) / 2)
    for share, flagged in ((0.2, (False, False)), (0.8, (True, False)), (1.5, (True, True))):
        light = fit.reconstruction.model_image.max() * np.float32(share)
        spotted = dataclasses.replace(fit.reconstruction, model_image=fit.reconstruction.model_image + light * spot)
        both = [
            judge(frame, dataclasses.replace(fit, reconstruction=spotted), result.estimate, each)
            for each in (False, True)
        ]
        assert tuple("core" in judged.flags for judged in both) == flagged
        assert both[0].figures["core"] == both[1].figures["core"] == pytest.approx(share, rel=0.3)


def test_several_figures_near_their_limits_are_one_too_many():
    def together(**shares):
        usual = {name: 0.0 for name in verdict._LOOKED_AT} | {"chi2": verdict._USUAL_CHI2}
        figures = {name: at + shares.get(name, 0.0) * (LIMITS[name] - at) for name, at in usual.items()}
        return verdict._together(figures | {"axis_ratio": 0.9, "signal": 100.0}, LIMITS)

    assert together() == 0
    assert together(chi2=0.99) < LIMITS["together"] / 2 and together(core=5.0) == pytest.approx(1 / 3)
    assert together(chi2=0.9, core=0.9, whiteness=0.6) == pytest.approx(0.8) and LIMITS["together"] < 0.8
    # What could not be made is left out, not taken for good.
    assert together(chi2=0.9, core=0.9, whiteness=0.6, starts=math.nan) == pytest.approx(0.8)
