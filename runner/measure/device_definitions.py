"""How far a run was from what its machine can do, and the energy that it took."""

from __future__ import annotations

from runner.measure.metric import Metric

DEVICE: tuple[Metric, ...] = (
    Metric(
        "mbu",
        "Memory bandwidth use (MBU)",
        "share",
        "Bytes that the steps had to move at least, divided by what the machine reads in the seconds in which steps "
        "ran (bytes / (busy seconds x measured read bandwidth)).",
        "roofline",
        better="higher",
    ),
    Metric(
        "mfu",
        "Compute use (MFU)",
        "share",
        "Operations that the steps had to compute, divided by what the machine computes in the seconds in which steps "
        "ran (operations / (busy seconds x measured matrix product rate)).",
        "roofline",
        better="higher",
    ),
    Metric(
        "floor_s",
        "Roofline floor",
        "s",
        "The least time for the run's steps on this machine: for each step its operations over the matrix product rate "
        "or its bytes over the read bandwidth, whichever takes longer. Steps of about the same arithmetic intensity "
        "are added up first, which makes it at most 4 % smaller.",
        "roofline",
        better="lower",
    ),
    Metric(
        "floor_share",
        "Floor / measured",
        "share",
        "Roofline floor divided by the measured seconds: 100 % is as fast as this machine can be with these steps.",
        "roofline",
        better="higher",
    ),
    Metric(
        "arithmetic_intensity",
        "Arithmetic intensity",
        "FLOP/byte",
        "Operations divided by bytes, of all steps.",
        "roofline",
    ),
    Metric(
        "work/tflop",
        "Operations",
        "TFLOP",
        "Floating-point operations that the steps had to compute, two per multiply-add: the layers' products, "
        "attention over the keys that each query sees, and the output head for the rows that are sampled or scored. "
        "Tokens that were computed again count again.",
        "roofline",
    ),
    Metric(
        "work/gb",
        "Bytes",
        "GB",
        "Bytes that the steps had to move at least, in 10^9: weights once per step, an embedding row and a new key and "
        "value per token, and the earlier keys and values once per sequence and step (those that several sequences "
        "share once). Activations are not counted.",
        "roofline",
    ),
    Metric(
        "ceiling/read_gb_per_s",
        "Ceiling: read",
        "GB/s",
        "Most bytes per second that this machine read from its memory, measured once on large random buffers and kept.",
        "roofline",
    ),
    Metric(
        "ceiling/copy_gb_per_s",
        "Ceiling: copy",
        "GB/s",
        "The same while copying, read and written bytes together.",
        "roofline",
    ),
    Metric(
        "ceiling/matmul_tflop_per_s",
        "Ceiling: matrix product",
        "TFLOP/s",
        "Most operations per second in a product of large random matrices of the run's dtype, with the run's threads.",
        "roofline",
    ),
    Metric(
        "engine_busy_share",
        "Engine busy",
        "share",
        "Seconds in which a step was under way, by the host's clock, divided by the measured seconds.",
        "roofline",
        better="higher",
    ),
    Metric(
        "device_busy_share",
        "GPU busy",
        "share",
        "Seconds in which the GPU computed steps, by its own clock, divided by the measured seconds.",
        "roofline",
        better="higher",
    ),
    Metric(
        "energy_j",
        "Energy",
        "J",
        "Energy that the engine's GPU took in the measured phase, from its own counter, or where it has none from its "
        "power, sampled five times a second. Nothing else of the machine is in it.",
        "energy",
        better="lower",
    ),
    Metric(
        "energy_j_per_output_token",
        "Energy per output token",
        "J/token",
        "Energy divided by the output tokens of the rows without error.",
        "energy",
        better="lower",
    ),
    Metric("power_w/mean", "Mean power", "W", "Energy divided by the seconds over which it was read.", "energy"),
    Metric("power_w/peak", "Peak power", "W", "Largest sample of the GPU's power in the measured phase.", "energy"),
)
