"""The series of a healthy service, and faults with the alerts that each must raise."""

from __future__ import annotations

from dataclasses import dataclass, field

STEP_SECONDS = 30
WORK = 'omnitok_http_requests_total{instance="a:8080", route="/encode", method="POST"'
SECONDS = 'omnitok_http_request_duration_seconds_%s{instance="a:8080", route="/encode"%s}'
MEDIA = 'omnitok_media_worker_restarts_total{instance="a:8080", reason="%s"}'
# A service that works, one sample each 30 s: two ingress replicas, one tokenizer, a request a second and a probe.
FRONTEND = 'haproxy_frontend_http_responses_total{instance="a:9101", proxy="http_frontend", code="%s"}'
REFUSED = 'haproxy_backend_http_responses_total{instance="a:9101", proxy="refused-overloaded", code="5xx"}'
HEALTHY = {
    'up{job="omnitok", instance="a:8080"}': "1x240",
    'up{job="edge", instance="a:9101"}': "1x240",
    'up{job="ray", instance="a:8090"}': "1x240",
    f'{WORK}, code="200"}}': "0+30x240",
    f'{WORK}, code="500"}}': "0x240",
    f'{WORK}, code="503"}}': "0x240",
    f'{WORK}, code="415"}}': "0+3x240",
    'omnitok_http_requests_total{instance="a:8080", route="/health", method="GET", code="200"}': "0+30x240",
    SECONDS % ("bucket", ', le="5.0"'): "0+33x240",
    SECONDS % ("count", ""): "0+33x240",
    FRONTEND % "2xx": "0+60x240",
    FRONTEND % "5xx": "0x240",
    REFUSED: "0x240",
    'haproxy_backend_active_servers{instance="a:9101", proxy="http-omnitok"}': "2x240",
    'haproxy_process_start_time_seconds{instance="a:9101"}': "1000x240",
    'omnitok_start_time_seconds{instance="a:8080"}': "1000x240",
    'omnitok_metrics_series{instance="a:8080"}': "2500x240",
    'scrape_samples_post_metric_relabeling{job="ray", instance="a:8090"}': "900x240",
    'omnitok_replicas{instance="a:8080", deployment="Ingress"}': "2x240",
    'omnitok_replicas{instance="a:8080", deployment="Tokenizer"}': "1x240",
    'omnitok_replicas_wanted{instance="a:8080", deployment="Ingress"}': "2x240",
    'omnitok_replicas_wanted{instance="a:8080", deployment="Tokenizer"}': "1x240",
    'omnitok_replica_starts_total{instance="a:8080", deployment="Ingress"}': "2x240",
    'omnitok_replica_starts_total{instance="a:8080", deployment="Tokenizer"}': "1x240",
    'omnitok_queue_age_seconds{instance="a:8080", replica="t"}': "0.2x240",
    'omnitok_media_queue_age_seconds{instance="a:8080", replica="i"}': "0.1x240",
    'omnitok_generate_queue_age_seconds{instance="a:8080", replica="t"}': "4x240",
    'omnitok_late_kernels_total{instance="a:8080"}': "3x240",
    'omnitok_batch_splits_total{instance="a:8080", op="encode", failure="memory"}': "2x240",
    MEDIA % "crash": "0+1x240",
    MEDIA % "recycled": "0+9x240",
    'omnitok_jobs{instance="a:8080", status="queued"}': "3x240",
    'omnitok_jobs{instance="a:8080", status="in_progress"}': "1x240",
    'omnitok_job_queue_age_seconds{instance="a:8080"}': "60x240",
    'omnitok_job_bytes{instance="a:8080"}': "1000x240",
    'omnitok_job_bytes_limit{instance="a:8080"}': "10000x240",
    'omnitok_filesystem_free_bytes{instance="a:8080", mount="tmp"}': "800x240",
    'omnitok_filesystem_size_bytes{instance="a:8080", mount="tmp"}': "1000x240",
    'ray_node_mem_used{instance="a:8090"}': "500x240",
    'ray_node_mem_total{instance="a:8090"}': "1000x240",
    'omnitok_gpu_info{instance="a:8080", gpu="0"}': "1x240",
    'omnitok_gpu_info{instance="a:8080", gpu="1"}': "1x240",
    'omnitok_gpu_temperature_celsius{instance="a:8080", gpu="0"}': "70x240",
    'omnitok_gpu_throttled{instance="a:8080", gpu="0", reason="thermal"}': "0x240",
    'omnitok_gpu_throttled{instance="a:8080", gpu="0", reason="power"}': "1x240",
    'omnitok_gpu_memory_used_bytes{instance="a:8080", gpu="0"}': "900x240",
    'omnitok_gpu_memory_total_bytes{instance="a:8080", gpu="0"}': "1000x240",
    'omnitok_gpu_ecc_errors_total{instance="a:8080", gpu="0"}': "0x240",
}


@dataclass(frozen=True)
class Fault:
    """A fault: series that differ from those of a healthy service, and the alerts at some minutes."""

    name: str
    series: dict[str, str]
    firing: dict[int, set[str]] = field(default_factory=dict)


def prefixed(prefix: str) -> dict[str, str]:
    """Return the series of a healthy service that begin so, as missing from the 21st minute on."""
    return {name: f"{values.partition('x')[0]}x40 _x200" for name, values in HEALTHY.items() if name.startswith(prefix)}


# In each of them the fault begins with minute 20: step 40.
FAULTS = [
    Fault("nothing is wrong", {}, {1: set(), 20: set(), 100: set()}),
    # The seven faults that the first rules did not see.
    Fault(
        "HAProxy is gone, no traffic arrives and the replicas are well",
        {
            'up{job="edge", instance="a:9101"}': "1x40 0x200",
            f'{WORK}, code="200"}}': "0+30x40 1200x200",
            **prefixed("haproxy_"),
        },
        {20: set(), 22: {"OmnitokEdgeDown"}, 70: {"OmnitokEdgeDown"}},
    ),
    Fault(
        "replicas answer a burst of 500 and die",
        {f'{WORK}, code="500"}}': "0x40 60x10 120x10 180x180"},
        {20: set(), 23: {"OmnitokErrorBudgetFast"}},
    ),
    Fault(
        "2 % of the work fails while probes are half of the traffic",
        {f'{WORK}, code="500"}}': "0x40 0+0.6x200", f'{WORK}, code="200"}}': "0+30x40 1200+29.4x200"},
        {20: set(), 40: {"OmnitokErrorBudgetFast", "OmnitokErrorBudgetSlow"}},
    ),
    Fault(
        "every request takes longer than 30 s",
        {SECONDS % ("bucket", ', le="5.0"'): "0+33x40 1320x200"},
        {20: set(), 35: {"OmnitokLatencyBudgetFast"}, 110: {"OmnitokLatencyBudgetFast", "OmnitokLatencyBudgetSlow"}},
    ),
    Fault(
        "one of two replicas is gone for good",
        {'omnitok_replicas{instance="a:8080", deployment="Ingress"}': "2x40 1x200"},
        {21: set(), 25: {"OmnitokDegraded"}},
    ),
    Fault(
        "a target is missing from the configuration",
        {'up{job="omnitok", instance="a:8080"}': "1x40 _x200"},
        {21: set(), 32: {"OmnitokTargetMissing"}},
    ),
    Fault(
        "all work is refused",
        {f'{WORK}, code="200"}}': "0+30x40 1200x200", f'{WORK}, code="503"}}': "0x40 0+30x200"},
        {20: set(), 23: {"OmnitokErrorBudgetFast"}, 30: {"OmnitokErrorBudgetFast", "OmnitokShedding"}},
    ),
    Fault(
        "all that is answered takes longer than 5 s, and far more is refused at once",
        {
            f'{WORK}, code="503"}}': "0x40 0+3000x200",
            SECONDS % ("count", ""): "0+33x40 1320+3033x200",
            SECONDS % ("bucket", ', le="5.0"'): "0+33x40 1320+3003x200",
        },
        {28: {"OmnitokErrorBudgetFast", "OmnitokLatencyBudgetFast", "OmnitokShedding"}},
    ),
    # And one fault for each other alert.
    Fault(
        "one request in 500 fails for hours",
        {f'{WORK}, code="500"}}': "0+0.12x240"},
        {80: {"OmnitokErrorBudgetSlow"}},
    ),
    Fault(
        "5 % of the requests take longer than 5 s",
        {SECONDS % ("bucket", ', le="5.0"'): "0+31.3x240"},
        {10: set(), 100: {"OmnitokLatencyBudgetSlow"}},
    ),
    Fault(
        "a tenth of the work is refused, and then none",
        {f'{WORK}, code="503"}}': "0x40 0+3.3x20 66x180"},
        {20: set(), 29: {"OmnitokErrorBudgetFast", "OmnitokShedding"}, 110: set()},
    ),
    Fault(
        "HAProxy refuses half of the work for replicas with full queues",
        {REFUSED: "0x40 0+33x200", FRONTEND % "5xx": "0x40 0+33x200"},
        {20: set(), 23: {"OmnitokErrorBudgetFast"}, 30: {"OmnitokErrorBudgetFast", "OmnitokShedding"}},
    ),
    Fault(
        "HAProxy dies and is back before the next look",
        {'haproxy_process_start_time_seconds{instance="a:9101"}': "1000x40 4000x200"},
        {20: set(), 22: {"OmnitokEdgeRestarted"}, 40: set()},
    ),
    Fault(
        "HAProxy starts anew for a replica that does",
        {
            'haproxy_process_start_time_seconds{instance="a:9101"}': "1000x40 4000x200",
            'omnitok_replica_starts_total{instance="a:8080", deployment="Tokenizer"}': "1x39 2x200",
        },
        {22: set(), 40: set()},
    ),
    Fault(
        "HAProxy answers with errors that no replica gave",
        {FRONTEND % "5xx": "0x40 0+3x200"},
        {20: set(), 25: {"OmnitokEdgeErrors"}},
    ),
    Fault(
        "HAProxy answers with one error while hardly anybody calls",
        {FRONTEND % "2xx": "0+1x240", FRONTEND % "5xx": "0x40 1x200"},
        {21: set(), 24: set()},
    ),
    Fault(
        "HAProxy passes on errors of replicas",
        {
            FRONTEND % "5xx": "0x40 0+3x200",
            f'{WORK}, code="500"}}': "0x40 0+3x200",
        },
        {25: {"OmnitokErrorBudgetFast"}},
    ),
    Fault(
        "HAProxy knows of no ingress replica",
        {'haproxy_backend_active_servers{instance="a:9101", proxy="http-omnitok"}': "2x40 0x200"},
        {21: set(), 23: {"OmnitokEdgeWithoutReplica"}},
    ),
    Fault(
        "an exporter does not answer",
        {'up{job="ray", instance="a:8090"}': "1x40 0x200"},
        {21: set(), 23: {"OmnitokUnreachable"}},
    ),
    Fault(
        "a pod of Kubernetes waits for its first replica",
        {
            'up{job="omnitok", instance="b:8080", ready="false"}': "0x240",
            'up{job="edge", instance="b:9101", ready="false"}': "0x240",
        },
        {20: set(), 100: set()},
    ),
    Fault(
        "every pod of Kubernetes has lost its proxy",
        {
            'up{job="edge", instance="a:9101"}': "1x40 stale",
            'up{job="edge", instance="a:9101", ready="false"}': "_x40 0x200",
        },
        {20: set(), 22: {"OmnitokEdgeDown"}},
    ),
    Fault(
        "a supervisor starts the service anew",
        {
            'omnitok_start_time_seconds{instance="a:8080"}': "1000x40 3400x200",
            'haproxy_process_start_time_seconds{instance="a:9101"}': "1000x40 3410x2 3430x200",
        },
        {20: set(), 22: {"OmnitokRestarted"}, 40: set()},
    ),
    Fault(
        "a label runs wild",
        {'omnitok_metrics_series{instance="a:8080"}': "2500x40 6100x200"},
        {25: set(), 32: {"OmnitokSeriesBudget"}},
    ),
    Fault(
        "Ray's own series pile up",
        {'scrape_samples_post_metric_relabeling{job="ray", instance="a:8090"}': "900x40 17000x200"},
        {25: set(), 32: {"OmnitokSeriesBudget"}},
    ),
    Fault(
        "the only tokenizer is gone",
        {'omnitok_replicas{instance="a:8080", deployment="Tokenizer"}': "1x40 0x200"},
        {21: set(), 22: {"OmnitokNoReplica"}, 25: {"OmnitokNoReplica", "OmnitokDegraded"}},
    ),
    Fault(
        "the only tokenizer is replaced within half a minute",
        {
            'omnitok_replicas{instance="a:8080", deployment="Tokenizer"}': "1x40 0x1 1x200",
            'omnitok_replica_starts_total{instance="a:8080", deployment="Tokenizer"}': "1x40 2x200",
        },
        {21: set(), 22: set(), 25: set()},
    ),
    Fault(
        "a tokenizer that is ready dies over and over",
        {'omnitok_replica_starts_total{instance="a:8080", deployment="Tokenizer"}': "1x40 1+1x10 11x190"},
        {20: set(), 26: {"OmnitokReplicasRestart"}, 50: set()},
    ),
    Fault(
        "load grows, and tokenizers with it",
        {
            'omnitok_replica_starts_total{instance="a:8080", deployment="Tokenizer"}': "1x40 2+1x5 7x195",
            'omnitok_replicas{instance="a:8080", deployment="Tokenizer"}': "1x40 2+1x5 7x195",
        },
        {25: set(), 30: set(), 40: set()},
    ),
    Fault(
        "a batch does not end",
        {'omnitok_queue_age_seconds{instance="a:8080", replica="t"}': "0.2x40 0+30x20 0x180"},
        {21: set(), 23: {"OmnitokQueueAge"}, 40: set()},
    ),
    Fault(
        "files wait for media workers",
        {'omnitok_media_queue_age_seconds{instance="a:8080", replica="i"}': "0.1x40 20x200"},
        {21: set(), 23: {"OmnitokMediaQueueAge"}},
    ),
    Fault(
        "samples wait",
        {'omnitok_generate_queue_age_seconds{instance="a:8080", replica="t"}': "4x40 200x200"},
        {22: set(), 24: {"OmnitokGenerateQueueAge"}},
    ),
    Fault(
        "a shape comes that warm-up did not cover",
        {'omnitok_late_kernels_total{instance="a:8080"}': "3x40 4x200"},
        {20: set(), 22: {"OmnitokLateKernels"}, 50: set()},
    ),
    Fault(
        "batches do not fit the memory",
        {'omnitok_batch_splits_total{instance="a:8080", op="encode", failure="memory"}': "2x40 12x200"},
        {20: set(), 22: {"OmnitokBatchesSplit"}, 50: set()},
    ),
    Fault(
        "hostile files arrive",
        {MEDIA % "crash": "0x40 0+5x200"},
        {20: set(), 26: {"OmnitokMediaWorkersDie"}},
    ),
    Fault(
        "jobs are old",
        {'omnitok_job_queue_age_seconds{instance="a:8080"}': "60x40 2000x200"},
        {25: set(), 32: {"OmnitokJobsWait"}},
    ),
    Fault(
        "nobody works on jobs",
        {'omnitok_jobs{instance="a:8080", status="in_progress"}': "1x40 0x200"},
        {24: set(), 27: {"OmnitokJobsStalled"}},
    ),
    Fault(
        "the contents of jobs fill their space",
        {'omnitok_job_bytes{instance="a:8080"}': "1000x40 9500x200"},
        {25: set(), 32: {"OmnitokJobsSpace"}},
    ),
    Fault(
        "the disk is full",
        {'omnitok_filesystem_free_bytes{instance="a:8080", mount="tmp"}': "800x40 50x200"},
        {20: set(), 23: {"OmnitokDiskFull"}},
    ),
    Fault(
        "memory is short",
        {'ray_node_mem_used{instance="a:8090"}': "500x40 950x200"},
        {21: set(), 24: {"OmnitokMemory"}},
    ),
    Fault(
        "one of two GPUs falls off the bus",
        {'omnitok_gpu_info{instance="a:8080", gpu="1"}': "1x40 _x200"},
        {21: set(), 30: {"OmnitokGpuGone"}, 100: {"OmnitokGpuGone"}},
    ),
    Fault(
        "the driver is gone, and all GPUs with it",
        prefixed("omnitok_gpu_"),
        {21: set(), 30: {"OmnitokGpuGone"}},
    ),
    Fault(
        "a GPU is hot",
        {'omnitok_gpu_temperature_celsius{instance="a:8080", gpu="0"}': "70x40 90x200"},
        {24: set(), 27: {"OmnitokGpuHot"}},
    ),
    Fault(
        "a GPU slows down since it is hot",
        {'omnitok_gpu_throttled{instance="a:8080", gpu="0", reason="thermal"}': "0x40 1x200"},
        {24: set(), 27: {"OmnitokGpuHot"}},
    ),
    Fault(
        "the memory of a GPU is full",
        {'omnitok_gpu_memory_used_bytes{instance="a:8080", gpu="0"}': "900x40 990x200"},
        {25: set(), 32: {"OmnitokGpuMemory"}},
    ),
    Fault(
        "a GPU has errors in its memory",
        {'omnitok_gpu_ecc_errors_total{instance="a:8080", gpu="0"}': "0x40 1x200"},
        {20: set(), 22: {"OmnitokGpuEcc"}, 85: set()},
    ),
]
