"""Wrong edits of the networks and of what is drawn in them."""

from .table import Mutant, edits

COMBO = "tests/model/test_combo.py"
DRAWS = "tests/model/test_random_numbers.py"
INITIAL = "tests/model/test_initial_values.py"
PARITY = ("tests/model/test_fidelity.py", "tests/parity/test_networks.py")

MUTANTS: list[Mutant] = [
    *edits(
        "model/combo.py",
        COMBO,
        (
            "red and blue exchanged in the deviation of pixels",
            "PIXEL_STD = (58.395, 57.12, 57.375)",
            "PIXEL_STD = (57.375, 57.12, 58.395)",
        ),
        (
            "red and blue exchanged in the mean of pixels",
            "PIXEL_MEAN = (123.675, 116.28, 103.53)",
            "PIXEL_MEAN = (103.53, 116.28, 123.675)",
        ),
        (
            "frames padded at the left and above",
            "(0, -width % STRIDE, 0, -height % STRIDE)",
            "(-width % STRIDE, 0, -height % STRIDE, 0)",
        ),
        (
            "queries hear the sound from before the fusion",
            "mask_features, audio_BD = self.fusion(mask_features, audio_BD, uniform)",
            "mask_features, _ = self.fusion(mask_features, audio_BD, uniform)",
        ),
        (
            "the decoder is not checkpointed",
            "self.checkpointing = self.decoder.checkpointing = enable",
            "self.checkpointing = enable",
        ),
        (
            "widths of encoder and decoder exchanged",
            "c.encoder_layers, c.encoder_ffn)",
            "c.encoder_layers, c.decoder_ffn)",
        ),
        ("the residual of the fusion is not passed on", "c.heads, c.fusion_residual)", "c.heads)"),
    ),
    *edits(
        "model/combo.py",
        DRAWS,
        (
            "backbones do not get the clips' random numbers",
            "maps = self.siam_encoder(frames, maskiges, uniform)",
            "maps = self.siam_encoder(frames, maskiges)",
        ),
        (
            "fusion does not get the clips' random numbers",
            "self.fusion(mask_features, audio_BD, uniform)",
            "self.fusion(mask_features, audio_BD)",
        ),
    ),
    *edits(
        "model/config.py",
        COMBO,
        ("one decoder layer more", "default=9", "default=10"),
        ("mask channels are always the width", "return self.mask_dim or self.width", "return self.width"),
    ),
    *edits(
        "model/backbones.py",
        DRAWS,
        ("a path is dropped at its rate itself", "self.drawn_B >= self.drop_prob", "self.drawn_B > self.drop_prob"),
        (
            "kept paths are not scaled",
            "(self.drawn_B >= self.drop_prob) / (1 - self.drop_prob)",
            "(self.drawn_B >= self.drop_prob) / 1.0",
        ),
        (
            "one draw for all paths of a backbone",
            "uniform((frames, len(paths))).unbind(1)",
            "[uniform((frames, len(paths)))[:, 0]] * len(paths)",
        ),
    ),
    *edits("model/backbones.py", PARITY, ("stochastic depth rises to 0.2", "drop_path_rate=0.1", "drop_path_rate=0.2")),
    *edits(
        "model/backbones.py",
        "tests/model/test_backbones.py",
        ("frozen norms of blocks start at zero", "zero_init_last=False", "zero_init_last=True"),
        ("paths of PVT draw from torch", "setattr(block, name, PerClipDropPath(child.drop_prob))", "pass"),
        (
            "the tiny backbone begins at stride 2",
            "out_indices=(1, 2, 3, 4),\n        layers",
            "out_indices=(0, 2, 3, 4),\n        layers",
        ),
        ("frozen norms without epsilon", "(self.running_var + self.eps).rsqrt()", "self.running_var.rsqrt()"),
    ),
    *edits(
        "model/siam_encoder.py",
        DRAWS,
        (
            "frames and Maskiges exchanged in the shared backbone",
            "torch.cat([frames_B3HW, maskiges_B3HW])",
            "torch.cat([maskiges_B3HW, frames_B3HW])",
        ),
        (
            "one draw for a frame and its Maskige",
            "torch.cat([of((frames, *shape[1:])) for _ in range(2)])",
            "torch.cat([of((frames, *shape[1:]))] * 2)",
        ),
        (
            "the Maskige backbone draws from torch",
            "set_drop_path(self.maskige_backbone, uniform, frames)",
            "set_drop_path(self.maskige_backbone, None, frames)",
        ),
        (
            "draws are left over from the pass before",
            "elif self.gates is None or uniform is None:",
            "elif self.gates is None:",
        ),
        ("weights come from the frame instead of the Maskige", "gate(maskige) * maskige", "gate(image) * maskige"),
        (
            "the maximum over pixels instead of the mean",
            "maskige_BCHW.mean(dim=(2, 3))",
            "maskige_BCHW.amax(dim=(2, 3))",
        ),
    ),
    *edits(
        "model/bilateral_fusion.py",
        DRAWS,
        ("the bias of dropped pixels still counts", "attention_BLN.sum(1)[..., None] * self._heads(", "self._heads("),
        ("fusion drops twice as much", "DROPOUT = 0.1", "DROPOUT = 0.2"),
        ("what fusion keeps is not scaled", ">= DROPOUT) / (1 - DROPOUT)", ">= DROPOUT)"),
        (
            "fusion drops in evaluation",
            "F.dropout(attention_BLN, DROPOUT, self.training)",
            "F.dropout(attention_BLN, DROPOUT)",
        ),
        (
            "one draw for both directions of fusion",
            "        added_BLC = self.sound_into_picture(a_BD, self.dropout(attention_BLN, uniform))\n"
            "        fused_BD = self.picture_into_sound(kept_BD, x_BLC, self.dropout(attention_BLN, uniform))\n",
            "        dropped_BLN = self.dropout(attention_BLN, uniform)\n"
            "        added_BLC = self.sound_into_picture(a_BD, dropped_BLN)\n"
            "        fused_BD = self.picture_into_sound(kept_BD, x_BLC, dropped_BLN)\n",
        ),
    ),
    *edits(
        "model/bilateral_fusion.py",
        (INITIAL, *PARITY),
        ("scores of fusion may overflow", ".clamp(-SCORE_LIMIT, SCORE_LIMIT)", ""),
        ("attention over heads instead of pixels", ".softmax(dim=1)", ".softmax(dim=2)"),
        ("positions of pixels left out", "(x_BLC + position_LC) @ asked", "x_BLC @ asked"),
    ),
    *edits(
        "model/random_numbers.py",
        DRAWS,
        (
            "all clips draw from the first one's seed",
            "manual_seed(seed) for seed in seeds]",
            "manual_seed(seeds[0]) for seed in seeds]",
        ),
    ),
    *edits(
        "model/decoder.py",
        (COMBO, *PARITY, "tests/model/test_networks.py"),
        (
            "a query may not look at the edge of its mask",
            "features_BChw.flatten(2) >= 0",
            "features_BChw.flatten(2) > 0",
        ),
        ("queries with an empty mask look nowhere", "(inside | ~inside.any(-1, keepdim=True))", "inside"),
        ("finest map first", "scale = i % SCALES", "scale = SCALES - 1 - i % SCALES"),
        (
            "positions are part of the values",
            "memory_BLC + memory_pos, memory_BLC, allowed",
            "memory_BLC + memory_pos, memory_BLC + memory_pos, allowed",
        ),
        (
            "the published layout is that of frames",
            "heard.reshape(num_queries, len(audio_BC), -1).transpose(0, 1)",
            "heard",
        ),
    ),
    *edits(
        "model/decoder.py",
        INITIAL,
        (
            "another distribution of initial weights",
            "nn.init.xavier_uniform_(self.in_proj_weight)",
            "nn.init.kaiming_uniform_(self.in_proj_weight)",
        ),
    ),
    *edits(
        "model/pixel_decoder.py",
        (INITIAL, *PARITY),
        (
            "kaiming's bound for a ReLU",
            "nn.init.kaiming_uniform_(conv.weight, a=1)",
            "nn.init.kaiming_uniform_(conv.weight)",
        ),
        ("maps enlarged from corner to corner", "align_corners=False", "align_corners=True"),
        (
            "the finest map is added after smoothing",
            "self.smooth(lateral + upsampled)",
            "self.smooth(lateral) + upsampled",
        ),
    ),
    *edits(
        "model/position_encoding.py",
        "tests/model/test_position_encoding.py",
        ("x before y", "torch.cat([y, x])", "torch.cat([x, y])"),
        ("coordinates count from 0", "torch.arange(1, length + 1", "torch.arange(0, length"),
    ),
    *edits(
        "model/deformable_attention.py",
        "tests/model/test_deformable_attention.py",
        (
            "a place that is no number reads the centre",
            "x, y = locations.unbind(-1)",
            "x, y = locations.nan_to_num(0.5).unbind(-1)",
        ),
        (
            "a row that is no number is no index",
            "torch.fmin(torch.fmax(y * height + 0.5, zero), height + 1.0)",
            "(y * height + 0.5).clamp(0.0, height.max() + 1.0)",
        ),
        ("the edge goes on outside of a level", 'padding_mode="zeros"', 'padding_mode="border"'),
        ("offsets span the whole box", "(0.5 / self.n_points)", "(1.0 / self.n_points)"),
    ),
]
