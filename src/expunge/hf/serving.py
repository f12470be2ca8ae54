"""How adapters of shards answer together: as one mixture whose weights are posteriors, so that no router is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.hf._packages import package
from expunge.training.tensors import named_parameters

__all__ = ["AdapterMixture", "Serving"]

BASE = "__base__"  # PEFT's name of rows that no adapter takes part in
Mode = Literal["mixture", "after_prompt", "mean_p"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How adapters answer together, by public constants.

    Args:
        mode: "mixture": at every token the experts are weighted by prior and likelihood of what came before, the public base among
            them; a row's negative log-likelihood is at most that of the best expert plus log(1/prior). "after_prompt": the
            likeliest expert after the prompt answers alone. "mean_p": the mean of the adapters' probabilities, for data
            that are not about persons.
        prior: of the base; the adapters share the rest equally.
        temperature: the likelihood's exponent is 1/temperature; the bound holds at 1.
    """

    mode: Mode = "mixture"
    prior: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"serving must be one of {', '.join(get_args(Mode))}, not {_validate.shown(self.mode)}")
        _validate.positive(prior=self.prior, temperature=self.temperature)
        if self.prior >= 1:
            raise ValueError(f"prior must be below 1, not {self.prior}: the adapters have the rest")

    @property
    def stated(self) -> dict[str, str]:
        """For a certificate."""
        return {"serving": self.mode, "prior": repr(self.prior), "temperature": repr(self.temperature)}


class AdapterMixture(nn.Module):
    """Adapters on one public base, which answer together.

    Its parameters are the adapters' factors alone, by the names of their files (`shard-0.base_model...lora_A.weight`): its
    digest is that of the folder that it is saved to. The base is held once.

    Args:
        model: a `PeftModel` with these adapters and no others; a plain model where there are none.
        adapters: their names.
        serving: how they answer.

    Attributes:
        experts: names of the adapters, then of the base.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[str], *, serving: Serving) -> None:
        super().__init__()
        self.serving, self.experts = serving, (*adapters, BASE)
        self._held = (model,)  # in a tuple: the base is no part of what is released
        model.eval()
        model.requires_grad_(False)
        for name, parameter in named_parameters(model):
            for adapter in set(name.split(".")).intersection(adapters):
                parameter.requires_grad_(True)
                path = [adapter, *(part for part in name.split(".") if part != adapter)]
                _register(self, path, parameter)

    def adapter(self, name: str) -> dict[str, Tensor]:
        """An adapter's factors by the names of a PEFT file."""
        return {key.removeprefix(f"{name}."): p for key, p in named_parameters(self) if key.startswith(f"{name}.")}

    @property
    def peft_config(self) -> Mapping[str, Any]:
        """Of each adapter."""
        return getattr(self._held[0], "peft_config", {})

    @property
    def priors(self) -> Tensor:
        """Of the experts, shape (experts,), float64."""
        rest = len(self.experts) - 1
        if not rest:
            return torch.ones(1, dtype=torch.float64)
        return torch.tensor([(1 - self.serving.prior) / rest] * rest + [self.serving.prior], dtype=torch.float64)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        """Log-probabilities of every next token, as `logits` of shape (n, t, vocabulary).

        Args:
            input_ids: shape (n, t).
            attention_mask: 0 where there is padding.
            labels: for "after_prompt": the prompt ends where the first label is that is not -100; without labels all is prompt.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        each = self.log_probabilities(input_ids, mask)
        mode = self.serving.mode
        if mode == "mean_p" and len(self.experts) > 1:
            found = torch.logsumexp(each[:-1], 0) - log(len(each) - 1)
        elif mode == "after_prompt":
            chosen = self._posterior(each, input_ids, mask).gather(
                2, _last(mask, labels).expand(len(each), -1).unsqueeze(2)
            )
            found = each[chosen.squeeze(2).argmax(0), torch.arange(len(input_ids), device=each.device)]
        else:
            weights = self._posterior(each, input_ids, mask)
            found = torch.logsumexp(each + weights.unsqueeze(3).to(each.dtype), 0)
        return package("transformers.modeling_outputs").CausalLMOutput(logits=found)

    def log_probabilities(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Each expert's, in one batch; shape (experts, n, t, vocabulary)."""
        count, rows = len(self.experts), len(input_ids)
        names = [name for name in self.experts for _ in range(rows)]
        found = self._run(input_ids.repeat(count, 1), mask.repeat(count, 1), names)
        return torch.log_softmax(found.float(), -1).view(count, rows, *found.shape[1:])

    def route(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> list[str]:
        """The likeliest expert for each prompt."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        posterior = self._posterior(self.log_probabilities(input_ids, mask), input_ids, mask)
        places = _last(mask, None).expand(len(posterior), -1).unsqueeze(2)
        return [self.experts[k] for k in posterior.gather(2, places).squeeze(2).argmax(0).tolist()]

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 64,
        end: int | None = None,
    ) -> Tensor:
        """Prompts with the likeliest next tokens, one after the other; shape (n, t + max_new_tokens).

        Args:
            input_ids: prompts of shape (n, t), padded on the left where they are shorter.
            attention_mask: 0 where there is padding.
            max_new_tokens: how many.
            end: the token that ends a text, which is then repeated.
        """
        _validate.whole(max_new_tokens=max_new_tokens)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        names = self.route(input_ids, mask) if self.serving.mode == "after_prompt" else None
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for _ in range(max_new_tokens):
            scores = self(input_ids, mask).logits if names is None else self._run(input_ids, mask, names)
            token = scores[:, -1].argmax(-1)
            if end is not None:
                token = torch.where(done, end, token)
                done |= token == end
            input_ids = torch.cat([input_ids, token[:, None]], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            if bool(done.all()):
                break
        return input_ids

    def _run(self, input_ids: Tensor, mask: Tensor, names: Sequence[str]) -> Tensor:
        """Logits of one pass in which each row has an adapter of its own."""
        how: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}
        if bool((mask[:, 0] == 0).any()):  # padded on the left
            how["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if len(self.experts) > 1:
            how["adapter_names"] = list(names)
        return self._held[0](**how).logits

    def _posterior(self, each: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Log-weights of the experts once so many tokens were seen, shape (experts, n, t), float64."""
        tokens = input_ids[:, 1:].expand(len(each), -1, -1).unsqueeze(3)
        said = each[:, :, :-1].gather(3, tokens).squeeze(3).double()
        said = said * (mask[:, 1:] * mask[:, :-1])  # nothing predicts the first token, and padding says nothing
        seen = nn.functional.pad(said.cumsum(2), (1, 0)) / self.serving.temperature
        return torch.log_softmax(self.priors.log().to(each.device)[:, None, None] + seen, 0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdapterMixture":
        """The base goes along to another device or type."""
        super()._apply(fn, recurse)
        self._held[0]._apply(fn, recurse)  # pyright: ignore[reportPrivateUsage]
        return self


def _last(mask: Tensor, labels: Tensor | None) -> Tensor:
    """The place of each prompt's last token, shape (n,)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    prompt = mask.bool()
    if labels is not None:
        learned = labels != -100
        first = torch.where(learned.any(1), learned.int().argmax(1), mask.shape[1])
        prompt = prompt & (places < first[:, None])
    return torch.where(prompt, places, 0).amax(1)


def _register(module: nn.Module, path: Sequence[str], parameter: nn.Parameter) -> None:
    for part in path[:-1]:
        if part not in module._modules:  # pyright: ignore[reportPrivateUsage]
            module.add_module(part, nn.Module())
        module = module._modules[part]  # pyright: ignore
    module.register_parameter(path[-1], parameter)
