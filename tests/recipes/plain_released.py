"""The released networks written out from their formulas, on state dicts in the released naming.

One clip, float64, no shared code with the package: what imported networks are compared with.
"""

import math

import torch
from torch.nn import functional as F


class Plain:
    def __init__(self, state, heads=8, projection_heads=4):
        self.s = {name: value.double() for name, value in state.items()}
        self.heads, self.projection_heads = heads, projection_heads

    def linear(self, name, x):
        weight = self.s[f"{name}.weight"].flatten(1)
        y = torch.einsum("...i,oi->...o", x, weight)
        return y + self.s[f"{name}.bias"] if f"{name}.bias" in self.s else y

    def layer_norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * self.s[f"{name}.weight"] + self.s[f"{name}.bias"]

    def group_norm(self, name, x, groups=None):
        # 32 groups; nets narrower than any released one keep four channels in a group
        groups = groups or min(32, len(x) // 4)
        parts = x.reshape(groups, -1)
        centred = parts - parts.mean(1, keepdim=True)
        x = (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
        sides = (-1, *[1] * (x.ndim - 1))
        weight, bias = (self.s[f"{name}.{kind}"].reshape(sides) for kind in ("weight", "bias"))
        return x * weight + bias

    def conv(self, name, x, stride=1, padding=1):
        kind = F.conv3d if x.ndim == 4 else F.conv2d
        weight, bias = self.s[f"{name}.weight"], self.s[f"{name}.bias"]
        return kind(x[None], weight, bias, stride, padding)[0]

    # Tokens: T H W D

    def turned(self, x, angles):
        """Pairs of neighbours; `angles` has one for each feature."""
        swapped = torch.empty_like(x)
        swapped[..., 0::2], swapped[..., 1::2] = -x[..., 1::2], x[..., 0::2]
        return x * angles.cos() + swapped * angles.sin()

    def time_angles(self, name, n):
        f = self.s[f"{name}.frame_rot_emb.inv_freqs"]
        return torch.arange(n).double()[:, None] * torch.cat((f, f))

    def space_angles(self, name, h, w):
        f = self.s[f"{name}.image_rot_emb.scales"] * math.pi
        rows = torch.linspace(-1, 1, h).double()[:, None, None] * f
        columns = torch.linspace(-1, 1, w).double()[None, :, None] * f
        both = torch.cat((rows.expand(h, w, -1), columns.expand(h, w, -1)), -1)
        return both.reshape(h * w, -1).repeat_interleave(2, 1)

    def attend(self, q, k, v, heads, angles=None):
        """Rows R N D each, one row after the other."""
        answers = []
        for i in range(len(q)):
            a, b, c = (x[i].reshape(len(x[i]), heads, -1).transpose(0, 1) for x in (q, k, v))
            if angles is not None:
                a, b = self.turned(a, angles), self.turned(b, angles)
            weights = torch.softmax(a @ b.transpose(1, 2) / a.shape[-1] ** 0.5, -1)
            answers.append((weights @ c).transpose(0, 1).flatten(1))
        return torch.stack(answers)

    def self_attention(self, name, x, heads, angles=None):
        q, k, v = self.linear(f"{name}.fn.to_qkv", self.layer_norm(f"{name}.norm", x)).chunk(3, -1)
        return x + self.linear(f"{name}.fn.to_out.0", self.attend(q, k, v, heads, angles))

    def cross_attention(self, name, x, low, high, angles):
        q = self.linear(f"{name}.fn.to_q", self.layer_norm(f"{name}.norm", x))
        k, v = self.linear(f"{name}.fn.to_k", low), self.linear(f"{name}.fn.to_v", high)
        return x + self.linear(f"{name}.fn.to_out.0", self.attend(q, k, v, self.heads, angles))

    def geglu(self, name, x):
        a, b = self.linear(f"{name}.fn.net.0", self.layer_norm(f"{name}.norm", x)).chunk(2, -1)
        return x + self.linear(f"{name}.fn.net.3", a * F.gelu(b))

    def transformer(self, name, x, low=None, high=None):
        t, h, w, d = x.shape
        angles = (self.time_angles(name, t), self.space_angles(name, h, w))
        layer = 0
        while f"{name}.layers.{layer}.0.norm.weight" in self.s:
            for block in (0, 1):
                by_time = block == 0
                rows = [self.rows(y, by_time) for y in (x, low, high) if y is not None]
                place = f"{name}.layers.{layer}.{block}"
                if low is None:
                    y = self.self_attention(place, rows[0], self.heads, angles[block])
                else:
                    y = self.cross_attention(place, *rows, angles[block])
                x = y.transpose(0, 1).reshape(t, h, w, d) if by_time else y.reshape(t, h, w, d)
            x = self.geglu(f"{name}.layers.{layer}.2", x)
            layer += 1
        return x

    @staticmethod
    def rows(x, by_time):
        flat = x.flatten(1, 2)
        return flat.transpose(0, 1) if by_time else flat

    def projected(self, axis, fibres):
        """X Y N D -> X Y D: the first position, with the token behind the last."""
        x, y, n, d = fibres.shape
        token = self.s[f"{axis}_token"].reshape(1, 1, d).expand(x * y, 1, d)
        rows = torch.cat((fibres.reshape(x * y, n, d), token), 1)
        rows = rows + self.s[f"{axis}_pos_embedding"].reshape(1, n + 1, d)
        layer = 0
        while f"{axis}_quant_attn.layers.{layer}.0.norm.weight" in self.s:
            name = f"{axis}_quant_attn.layers.{layer}"
            rows = self.self_attention(f"{name}.0", rows, self.projection_heads)
            inner = self.linear(f"{name}.1.fn.net.0", self.layer_norm(f"{name}.1.norm", rows))
            rows = rows + self.linear(f"{name}.1.fn.net.3", F.gelu(inner))
            layer += 1
        return rows[:, 0].reshape(x, y, d)

    def planes(self, video, patch):
        """C T H W -> planes hw, tw, th."""
        c, t, h, w = video.shape
        blocks = video.reshape(c, t, h // patch, patch, w // patch, patch)
        tokens = blocks.permute(1, 2, 4, 3, 5, 0).flatten(3)
        u = self.transformer("encoder", self.linear("encoder.to_patch_embedding", tokens))
        return (
            self.projected("xy", u.permute(1, 2, 0, 3)),
            self.projected("yt", u.permute(0, 2, 1, 3)),
            self.projected("xt", u),
        )

    def pixels(self, tokens):
        """T H W D -> C T H W."""
        tokens = self.transformer("decoder", tokens).permute(0, 3, 1, 2)
        weight, bias = self.s["to_pixel.1.weight"], self.s["to_pixel.1.bias"]
        frames = F.conv_transpose2d(tokens, weight, bias, stride=weight.shape[-1])
        return (2 * frames.sigmoid() - 1).transpose(0, 1)

    # HVDM

    def bands(self, video):
        """LLL first, the seven others on channels; letters are time, height, width."""
        found = [video]
        for dim in (1, 2, 3):
            halves = []
            for band in found:
                even, odd = band.unflatten(dim, (-1, 2)).unbind(dim + 1)
                halves += [(even + odd) / 2**0.5, (even - odd) / 2**0.5]
            found = halves
        return found[0], torch.cat(found[1:])

    def convolved(self, name, x, patch):
        halvings = int(math.log2(patch)) - 1
        number = 0
        for stack in (name, f"{name}_mid"):
            i = 0
            while f"{stack}.{i}.weight" in self.s:
                stride = 2 if number % 2 == 0 and number // 2 < halvings else 1
                x = self.conv(f"{stack}.{i}", x, (1, stride, stride), (0, 1, 1))
                x = torch.tanh(self.group_norm(f"{stack}.{i + 1}", x, len(x)))
                number, i = number + 1, i + 3
        return torch.cat((x, x), 1).permute(1, 2, 3, 0)

    def hvdm_encode(self, video, patch=8):
        hw, tw, th = self.planes(video, patch)
        volume = hw[None] + tw[:, None] + th[:, :, None]
        low, high = self.bands(video)
        low, high = self.convolved("low_freq", low, patch), self.convolved("high_freq", high, patch)
        fused = self.transformer("interaction", volume, low, high)
        return self.linear("pre_freq", fused.tanh()).tanh().permute(3, 0, 1, 2)

    def hvdm_decode(self, latent):
        return self.pixels(self.linear("post_freq", latent.permute(1, 2, 3, 0)))

    # PVDM

    def pvdm_encode(self, video, patch=8):
        planes = zip(("xy", "yt", "xt"), self.planes(video, patch), strict=True)
        squashed = [self.linear(f"pre_{axis}", plane).tanh() for axis, plane in planes]
        return torch.cat([plane.flatten(0, 1) for plane in squashed]).T

    def pvdm_decode(self, latent, t, h, w):
        parts = latent.T.split((h * w, t * w, t * h))
        hw, tw, th = (
            self.linear(f"post_{axis}", part).reshape(*shape, -1)
            for axis, part, shape in zip(
                ("xy", "yt", "xt"), parts, ((h, w), (t, w), (t, h)), strict=True
            )
        )
        return self.pixels(hw[None] + tw[:, None] + th[:, :, None])

    # U-Nets

    def time_features(self, t):
        half = self.s["diffusion_model.time_embed.0.weight"].shape[1] // 2
        angles = t * torch.exp(-math.log(10000) * torch.arange(half).double() / half)
        x = torch.cat((angles.cos(), angles.sin()))
        x = F.silu(self.linear("diffusion_model.time_embed.0", x))
        return self.linear("diffusion_model.time_embed.2", x)

    def residual(self, name, x, time, resample=None):
        h = F.silu(self.group_norm(f"{name}.in_layers.0", x))
        if resample is not None:
            h, x = resample(h), resample(x)
        h = self.conv(f"{name}.in_layers.2", h)
        scale, shift = self.linear(f"{name}.emb_layers.1", F.silu(time)).chunk(2)
        sides = (-1, *[1] * (h.ndim - 1))
        h = self.group_norm(f"{name}.out_layers.0", h)
        h = h * (1 + scale.reshape(sides)) + shift.reshape(sides)
        h = self.conv(f"{name}.out_layers.3", F.silu(h))
        if f"{name}.skip_connection.weight" in self.s:
            x = self.conv(f"{name}.skip_connection", x, padding=0)
        return x + h

    @staticmethod
    def halved(x):
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    @staticmethod
    def doubled(x):
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def position_attention(self, name, x):
        """C N; each head's queries, keys and values lie in a row."""
        qkv = self.linear(f"{name}.qkv", self.group_norm(f"{name}.norm", x).T)
        q, k, v = qkv.reshape(len(qkv), self.heads, 3, -1).permute(2, 1, 0, 3)
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
        answer = (weights @ v).transpose(0, 1).flatten(1)
        return x + self.linear(f"{name}.proj_out", answer).T

    def denoise(self, noisy, t, condition, shapes=None):
        """C T H W for the volume; C N, with the planes' shapes, for the planes."""
        p = "diffusion_model."
        volume = shapes is None
        conv = "_conv" if volume else ""
        time = self.time_features(t)
        both = torch.cat((noisy, condition))
        parts = [both] if volume else self.split(both, shapes)
        x = [self.conv(f"{p}input{conv}_blocks.0.0", part) for part in parts]
        skips, i = [x], 1
        while f"{p}input{conv}_blocks.{i}.0.in_layers.0.weight" in self.s:
            resample = self.halved if i % 3 == 0 else None
            x = self.slots(f"{p}input{conv}_blocks.{i}", x, time, resample)
            x = x if volume else self.joint(f"{p}input_attns.{i}", x)
            skips.append(x)
            i += 1
        x = self.slots(f"{p}middle{conv}_block", x, time)
        x = x if volume else self.joint(f"{p}mid_attn", x)
        for i in range(len(skips)):
            x = [torch.cat(pair) for pair in zip(x, skips.pop(), strict=True)]
            x = self.slots(f"{p}output{conv}_blocks.{i}", x, time)
            x = x if volume else self.joint(f"{p}output_attns.{i}", x)
        head = f"{p}out_freq" if volume else f"{p}out"
        x = [self.conv(f"{head}.2", F.silu(self.group_norm(f"{head}.0", part))) for part in x]
        return x[0] if volume else torch.cat([part.flatten(1) for part in x], 1)

    def slots(self, name, x, time, resample=None):
        """Residual blocks and attentions in their order; a second residual block doubles."""
        middle = "middle" in name
        for slot in range(3):
            if f"{name}.{slot}.in_layers.0.weight" in self.s:
                change = resample if slot == 0 or middle else self.doubled
                x = [self.residual(f"{name}.{slot}", part, time, change) for part in x]
            elif f"{name}.{slot}.qkv.weight" in self.s:
                x = [
                    self.position_attention(f"{name}.{slot}", part.flatten(1)).reshape(part.shape)
                    for part in x
                ]
        return x

    def joint(self, name, x):
        shapes = [part.shape[1:] for part in x]
        together = torch.cat([part.flatten(1) for part in x], 1)
        return self.split(self.position_attention(name, together), shapes)

    @staticmethod
    def split(x, shapes):
        parts = x.split([h * w for h, w in shapes], 1)
        return [part.reshape(len(x), h, w) for part, (h, w) in zip(parts, shapes, strict=True)]
