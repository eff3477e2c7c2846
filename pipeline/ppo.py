"""Stage 3: proximal policy optimisation with a KL penalty.

Each step: 1. prompts are drawn; 2. Ray workers sample answers; 3. the reward model scores them;
4. a penalty for drifting from the reference is taken off every token's reward; 5. rewards become
advantages, by the critic's values or against other answers; 6. policy and critic are updated with
clipped losses; 7. the workers get the new weights. The reference is the SFT model, frozen; the
critic starts from the reward model.

    align run --stage ppo --config configs/demo.yaml

Shapes: B answers of a step, T response tokens.
"""

import torch

from align.data.batches import fingerprint, stream
from align.pipeline import ranks
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.ema import MovingAverage
from align.pipeline.export import publish
from align.pipeline.launch import Shares
from align.pipeline.ppo_evaluation import compare, show, write_evaluation
from align.pipeline.ppo_guards import check_drift, check_finite
from align.pipeline.ppo_metrics import (
    OF_THE_CRITIC,
    answer_metrics,
    explained_variance,
    measured_peak,
    objective_metrics,
    step_flops,
)
from align.pipeline.ppo_models import Models
from align.pipeline.ppo_state import Adapted
from align.pipeline.ppo_update import Experience, mixed_in_tokens, update
from align.pipeline.prompts import read_encoded_prompts, read_mixed_in
from align.pipeline.rollouts import rollouts
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stage_log import StageLog
from align.pipeline.texts import Texts
from align.policy import advantage, kl
from align.policy.loss import truncated_weights
from align.policy.rollout import SampleRequest, pad_rows


def run(config: RunConfig, directory: RunDirectory, shares: Shares) -> None:
    """Train, evaluate and publish `ppo/final`."""
    ppo, every = config.ppo, config.train.eval_every
    models = Models(config, directory)
    train, held_out = read_encoded_prompts(config, directory, models.tokenizer)
    peak = measured_peak(models.device) * ranks.world_size()
    mixed_in = read_mixed_in(config, directory, models.tokenizer)
    data = [
        *models.identities,
        fingerprint(prompt.ids for prompt in train),
        fingerprint(mixed_in.prompts, mixed_in.responses),
    ]
    checkpoints = Checkpoints(directory, "ppo", config, data, ppo.steps)
    done = checkpoints.steps_done
    adapted = Adapted.restored(checkpoints.numbers, ppo)
    average = MovingAverage(models.policy, ppo.ema_decay) if ppo.ema_decay else None
    averaged = average.share if average else {}
    credit = advantage.Credit(ppo.gamma, ppo.gae_lambda, ppo.samples_per_prompt)
    count = ppo.batch_size // ppo.samples_per_prompt
    samples_of_each = range(ppo.samples_per_prompt)

    with rollouts(config, models, shares) as workers:
        workers.sync(version=0)
        before = workers.answer(held_out)
        checkpoints.restore(models.engines, averaged)
        if done:
            workers.sync(version=done)
        with StageLog(directory.stage("ppo"), "ppo", ppo.steps, done) as log:
            for step in range(done, ppo.steps):
                # 1. Prompts: the next part of an endless stream of shuffled epochs.
                drawn = [*stream(len(train), config.seed, step * count, count)]
                requests = [
                    SampleRequest(train[row].ids, (config.seed, step, position, sample))
                    for position, row in drawn
                    for sample in samples_of_each
                ]
                # 2. Answers, sampled by the workers.
                with log.timed("rollout"):
                    samples = workers.sample(requests)
                texts = Texts([r.prompt_ids for r in requests], [s.response_ids for s in samples])
                mask_BT = pad_rows([[1.0] * len(s.response_ids) for s in samples])
                # 3. Scores: the word of the reward model, or of `reward.mix`, on the whole answer.
                with log.timed("score"):
                    said = [train[row].messages for _, row in drawn for _ in samples_of_each]
                    rewards = models.rewards(texts, said)
                cut_B = torch.tensor([float(not s.finished) for s in samples])
                adapted, scores_B = adapted.settled(rewards.total_B, cut_B, ppo)
                # 4. Rewards: what the answer lost in drifting from the reference, by token.
                with log.timed("logprobs"):
                    logprobs_BT, entropy_BT, values_BT = models.logprobs(texts)
                    workers.check(samples, logprobs_BT)
                    reference_BT = models.reference_logprobs(texts)
                kl_BT = kl.ESTIMATORS[ppo.kl](logprobs_BT, reference_BT)
                in_reward = adapted.kl_coef if ppo.kl_in == "reward" else 0.0
                rewards_BT = kl.shaped_rewards(scores_B, kl_BT, mask_BT, in_reward)
                metrics = objective_metrics(
                    scores_B, rewards_BT, logprobs_BT, reference_BT, entropy_BT, mask_BT
                )
                check_drift(metrics["objective/kl"], config, step)
                # 5. Advantages: how much better each token was than expected.
                if ppo.whiten_rewards:
                    rewards_BT = advantage.whiten(rewards_BT, mask_BT, keep_mean=True)
                if models.critic:
                    with log.timed("values"):
                        values_BT = models.values(texts)
                estimate = advantage.ESTIMATORS[ppo.advantage]
                advantages_BT, returns_BT = estimate(rewards_BT, values_BT, mask_BT, credit)
                if ppo.importance_cap is not None:
                    sampled_BT = pad_rows([s.logprobs for s in samples])
                    advantages_BT = advantages_BT * truncated_weights(
                        logprobs_BT, sampled_BT, ppo.importance_cap
                    )
                # 6. Updates of policy and critic.
                experience = Experience(
                    texts=texts,
                    mask_BT=mask_BT,
                    logprobs_BT=logprobs_BT,
                    reference_BT=reference_BT,
                    values_BT=values_BT,
                    advantages_BT=advantages_BT,
                    returns_BT=returns_BT,
                    kl_coef=adapted.kl_coef - in_reward,
                )
                with log.timed("update"):
                    metrics |= update(experience, models, config, step, mixed_in)
                    check_finite(metrics, config, step)
                    if average:
                        average.include(models.policy)
                # 7. The workers get the new weights.
                with log.timed("sync"):
                    workers.sync(version=step + 1)

                metrics["kl_coef"] = adapted.kl_coef
                adapted = adapted.after(metrics["objective/kl"], ppo)
                metrics |= rewards.metrics
                metrics["reward/missing_eos"] = -ppo.missing_eos_penalty * float(cut_B.mean())
                metrics |= answer_metrics(texts.responses, [s.finished for s in samples])
                metrics["val/explained_variance"] = explained_variance(
                    values_BT, returns_BT, mask_BT
                )
                trained = len(models.engines)
                flops = step_flops(
                    models.parameter_count,
                    texts.tokens,
                    mixed_in_tokens(mixed_in, config, step),
                    ppo.epochs,
                    trained,
                    adapters=config.model.adapter is not None,
                )
                metrics["mfu"] = flops / log.seconds / peak
                if ppo.advantage != "gae":
                    metrics = {name: x for name, x in metrics.items() if name not in OF_THE_CRITIC}
                if every and (step + 1) % every == 0:
                    with log.timed("evaluation"):
                        answers = workers.answer(held_out)
                        metrics["eval/reward"] = show(answers, held_out, models, log, step + 1)
                log.step(step + 1, metrics, tokens=texts.tokens * ppo.epochs)
                checkpoints.after(step + 1, models.engines, adapted.numbers, averaged)
        if average:
            average.write_into(models.policy)
            workers.sync(version=ppo.steps + 1)
        after = workers.answer(held_out)
    compared = compare(before, after, held_out, models, config)
    if ranks.is_main():
        write_evaluation(directory, config, models.tokenizer, compared)
    publish(models.published_policy(), models.tokenizer, config, "ppo", directory.final("ppo"))
