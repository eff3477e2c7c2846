"""Whether what the config names is there, before anything expensive starts."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from align.data.config import FeedbackSource
from align.data.errors import UserError
from align.data.instruction_config import InstructionSource
from align.pipeline.config import RunConfig
from align.policy.places import resolve


def check_inputs(config: RunConfig, stages: tuple[str, ...], elsewhere: Path | None = None) -> None:
    """Raises UserError, one line for each input of `stages` that is named and missing.

    What lies in the folder `elsewhere` is not looked for: another machine has it.
    """

    def unseen(path: Path) -> bool:
        return elsewhere is not None and path.is_relative_to(elsewhere)

    problems = [*_source_problems(config, stages)]
    if not unseen(Path(config.model.path)):
        problems = [*_model_problems(config), *problems]
    for key, path in named_paths(config, stages):
        if not unseen(path) and not path.exists():
            problems.append(f"{key}: {path} does not exist; give the path of a file or folder")
    if problems:
        raise UserError("\n".join(problems))


def check_engine(config: RunConfig, stages: tuple[str, ...]) -> None:
    """Raises UserError if answers are to come from vLLM and it is not installed here."""
    wanted = "ppo" in stages and config.rollout.engine == "vllm"
    if wanted and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: vllm is not installed here: `pip install 'align-rlhf[vllm]'` on a "
            "GPU, as in docs/vllm.md on CPUs, or set rollout.engine to own"
        )


def _model_problems(config: RunConfig) -> Iterator[str]:
    model = config.model
    try:
        folder = Path(resolve(model.path))
    except UserError as error:
        yield str(error)
        return
    if folder.is_absolute() and not folder.is_dir():
        yield f"model.path: no such folder: {folder}; give a folder, a hub id or `embedded`"
    elif folder.is_absolute() and model.gguf_file and not (folder / model.gguf_file).is_file():
        yield f"model.gguf_file: no {model.gguf_file} in {folder}"


def _source_problems(config: RunConfig, stages: tuple[str, ...]) -> Iterator[str]:
    data = config.data
    if "sft" in stages and not data.instructions:
        yield "data.instructions: is empty, and sft learns from it; name a source"
    if "rm" in stages and not data.feedback:
        yield "data.feedback: is empty, and rm learns from it; name a source"
    if "ppo" in stages and not data.prompts:
        yield "data.prompts: is empty, and ppo answers them; name a source"
    if "ppo" in stages and config.ppo.ptx_coef and not data.instructions:
        yield "data.instructions: is empty, and ppo.ptx_coef mixes them into ppo; name a source"


def named_paths(config: RunConfig, stages: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Every path but `model.path` that the config names and the stages read, with its key."""
    data = config.data
    sources: dict[str, Sequence[InstructionSource | FeedbackSource]]
    sources = {"sft": data.instructions, "rm": data.feedback, "ppo": data.prompts}
    names = {"sft": "instructions", "rm": "feedback", "ppo": "prompts"}
    found: list[tuple[str, Path | None]] = [("model.chat_template", config.model.chat_template)]
    for stage in stages:
        for number, source in enumerate(sources[stage]):
            key = f"data.{names[stage]}.{number}"
            found.append((f"{key}.path", source.path))
            if isinstance(source, InstructionSource) and source.templates is not None:
                found.append((f"{key}.templates.file", source.templates.file))
    if "sft" in stages:
        found.append(("sft.model", config.sft.model))
        for number, source in enumerate(data.evaluation):
            found.append((f"data.evaluation.{number}.path", source.path))
    if "rm" in stages:
        found.append(("rm.model", config.rm.model))
        found.append(("feedback.annotators", config.feedback.annotators))
        found.append(("feedback.eligibility.profiles", config.feedback.eligibility.profiles))
    if "ppo" in stages:
        found += [("ppo.policy", config.ppo.policy), ("ppo.reward_model", config.ppo.reward_model)]
        for number, part in enumerate(config.reward.mix):
            found += [(f"reward.mix.{number}.models", path) for path in part.models]
            found.append((f"reward.mix.{number}.file", part.file))
            texts = {"rubric": part.rubric, "judge": None if part.url else part.judge}
            found += [
                (f"reward.mix.{number}.{name}", Path(text))
                for name, text in texts.items()
                if text and Path(text).is_absolute()  # else what ships, or the id of a model
            ]
    return ((key, path) for key, path in found if path is not None)
