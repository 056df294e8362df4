"""The latency table of a device as text."""

from bnas_deploy.core.latency_table import LatencyTable


def describe(table: LatencyTable) -> str:
    """Show every workload in a line: microseconds, and from the 10th to the 90th percentile."""
    lines = [f"{'operation':<36} {'µs':>8}   10 to 90 %"]
    lines += [
        f"{time.workload!s:<36} {time.median_us:>8.1f}   {time.p10_us:.1f} to {time.p90_us:.1f}" for time in table.times
    ]
    threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
    size = "x".join(map(str, table.network["image_size"]))
    lines.append(
        f"{table.network['name']} on {size} images, {threads}, batch {table.batch}, {table.isa} kernels, "
        f"{table.machine['cpu']}"
    )
    return "\n".join(lines)
