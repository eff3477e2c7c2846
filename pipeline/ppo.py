"""Stage 3: proximal policy optimisation with a KL penalty.

Each step: 1. prompts are drawn; 2. Ray workers sample answers; 3. the reward model scores them;
4. a penalty for drifting from the reference is taken off every token's reward; 5. the critic's
values turn rewards into advantages; 6. policy and critic are updated with clipped losses; 7. the
workers get the new weights. The reference is the SFT model, frozen; the critic starts from the
reward model.

    align run --stage ppo --config configs/demo.yaml

Shapes: B answers of a step, T response tokens.
"""

from collections.abc import Sequence

import torch

from align.data.batches import fingerprint, stream
from align.pipeline import ranks
from align.pipeline.answers import answer_text
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.export import publish
from align.pipeline.launch import Shares
from align.pipeline.ppo_evaluation import SHOWN, Compared, base_answers, write_evaluation
from align.pipeline.ppo_metrics import (
    answer_metrics,
    explained_variance,
    measured_peak,
    objective_metrics,
    step_flops,
)
from align.pipeline.ppo_models import Models
from align.pipeline.ppo_update import Experience, update
from align.pipeline.prompts import EncodedPrompt, read_encoded_prompts
from align.pipeline.rollouts import rollouts
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stage_log import StageLog
from align.pipeline.texts import Texts
from align.policy.advantage import gae, whiten
from align.policy.kl import ESTIMATORS, adapted_coef, k1, shaped_rewards
from align.policy.rollout import Sample, SampleRequest, pad_rows


def run(config: RunConfig, directory: RunDirectory, shares: Shares) -> None:
    """Train, evaluate and publish `ppo/final`."""
    ppo, every = config.ppo, config.train.eval_every
    models = Models(config, directory)
    train, held_out = read_encoded_prompts(config, directory, models.tokenizer)
    peak = measured_peak(models.device) * ranks.world_size()
    engines = {"policy": models.policy.deepspeed, "critic": models.critic.deepspeed}
    data = [*models.identities, fingerprint(prompt.ids for prompt in train)]
    checkpoints = Checkpoints(directory, "ppo", config, data, ppo.steps)
    done = checkpoints.steps_done
    kl_coef = checkpoints.numbers.get("kl_coef", ppo.kl_coef)

    with rollouts(config, models, shares) as workers:
        workers.sync(version=0)
        before = workers.answer(held_out)
        checkpoints.restore(engines)
        if done:
            workers.sync(version=done)
        with StageLog(directory.stage("ppo"), "ppo", ppo.steps, done) as log:
            for step in range(done, ppo.steps):
                # 1. Prompts: the next part of an endless stream of shuffled epochs.
                drawn = stream(len(train), config.seed, step * ppo.batch_size, ppo.batch_size)
                requests = [
                    SampleRequest(train[row].ids, (config.seed, step, position, 0))
                    for position, row in drawn
                ]
                # 2. Answers, sampled by the workers.
                with log.timed("rollout"):
                    samples = workers.sample(requests)
                texts = Texts([r.prompt_ids for r in requests], [s.response_ids for s in samples])
                mask_BT = pad_rows([[1.0] * len(s.response_ids) for s in samples])
                # 3. Scores: the reward model's word on the whole answer.
                with log.timed("score"):
                    cut_B = torch.tensor([float(not s.finished) for s in samples])
                    scores_B = models.scores(texts) - ppo.missing_eos_penalty * cut_B
                # 4. Rewards: what the answer lost in drifting from the reference, by token.
                with log.timed("logprobs"):
                    logprobs_BT, entropy_BT = models.logprobs(texts)
                    workers.check(samples, logprobs_BT)
                    reference_BT = models.reference_logprobs(texts)
                in_reward = kl_coef if ppo.kl_in == "reward" else 0.0
                kl_BT = ESTIMATORS[ppo.kl](logprobs_BT, reference_BT)
                rewards_BT = shaped_rewards(scores_B, kl_BT, mask_BT, in_reward)
                # 5. Advantages: how much better each token was than the critic expected.
                with log.timed("values"):
                    values_BT = models.values(texts)
                raw_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, ppo.gamma, ppo.gae_lambda)
                advantages_BT = whiten(raw_BT, mask_BT)
                # 6. Updates of policy and critic.
                with log.timed("update"):
                    experience = Experience(
                        texts,
                        logprobs_BT,
                        reference_BT,
                        values_BT,
                        advantages_BT,
                        returns_BT,
                        mask_BT,
                        kl_coef - in_reward,
                    )
                    metrics = update(experience, models, config, step)
                # 7. The workers get the new weights.
                with log.timed("sync"):
                    workers.sync(version=step + 1)

                metrics |= objective_metrics(
                    scores_B, rewards_BT, logprobs_BT, reference_BT, entropy_BT, mask_BT
                )
                metrics["kl_coef"] = kl_coef
                if ppo.kl_target is not None:
                    kl = metrics["objective/kl"]
                    kl_coef = adapted_coef(
                        kl_coef, kl, ppo.kl_target, ppo.batch_size, ppo.kl_horizon
                    )
                metrics |= answer_metrics(texts.responses, [s.finished for s in samples])
                metrics["val/explained_variance"] = explained_variance(
                    values_BT, returns_BT, mask_BT
                )
                flops = step_flops(models.parameter_count, texts.tokens, ppo.epochs)
                metrics["mfu"] = flops / log.seconds / peak
                if every and (step + 1) % every == 0:
                    with log.timed("evaluation"):
                        answers = workers.answer(held_out)
                        metrics["eval/reward"] = _show(answers, held_out, models, log, step + 1)
                log.step(step + 1, metrics, tokens=texts.tokens * ppo.epochs)
                checkpoints.after(step + 1, engines, {"kl_coef": kl_coef})
        after = workers.answer(held_out)
    compared = _compare(before, after, held_out, models, config)
    if ranks.is_main():
        write_evaluation(directory, config, models.tokenizer, compared)
    publish(models.policy_model, models.tokenizer, config, "ppo", directory.final("ppo"))


def _show(
    answers: Sequence[Sample],
    prompts: Sequence[EncodedPrompt],
    models: Models,
    log: StageLog,
    step: int,
) -> float:
    """Mean reward of answers to held-out prompts; the first of them go to `samples.jsonl`."""
    scores = models.scores(_texts(prompts, answers)).tolist()
    texts = [answer_text(models.tokenizer, one) for one in answers[:SHOWN]]
    log.samples(step, [*zip((prompt.text for prompt in prompts), texts, scores, strict=False)])
    return float(sum(scores) / len(scores))


def _compare(
    before: Sequence[Sample],
    after: Sequence[Sample],
    prompts: Sequence[EncodedPrompt],
    models: Models,
    config: RunConfig,
) -> Compared:
    """The policy against its reference, and against the base model for the eye."""
    texts = _texts(prompts, after)
    logprobs_BT, _ = models.logprobs(texts)
    kl_BT = k1(logprobs_BT, models.reference_logprobs(texts))
    return Compared(
        prompts=prompts,
        sft=before,
        sft_rewards=models.scores(_texts(prompts, before)).tolist(),
        ppo=after,
        ppo_rewards=models.scores(texts).tolist(),
        base=ranks.on_main(lambda: base_answers(prompts, config, models.tokenizer)),
        kl=float(kl_BT.sum(dim=1).mean()),
    )


def _texts(prompts: Sequence[EncodedPrompt], answers: Sequence[Sample]) -> Texts:
    return Texts([prompt.ids for prompt in prompts], [a.response_ids for a in answers])
