# One event service: what runs, and as whom. What reaches it is in events.tf, what it may do in access.tf.

module "topology" {
  source  = "../topology"
  project = var.project
  region  = var.region
}

data "google_project" "this" {
  project_id = var.project
}

locals {
  service     = module.topology.services[var.name]
  is_function = local.service.kind == "function"
  # Names on Google Cloud have hyphens.
  host = replace(var.name, "_", "-")

  subscriptions = {
    for name, each in module.topology.subscriptions : name => each if lookup(each, "service", "") == var.name
  }
  triggers = merge([
    for bucket in module.topology.buckets : {
      for trigger in lookup(bucket, "triggers", []) :
      trigger.name => merge(trigger, { bucket = bucket.name }) if trigger.service == var.name
    }
  ]...)

  # A request that is still running when Pub/Sub stops waiting for its answer is sent again, in vain.
  timeout_seconds = max(60, [for each in local.subscriptions : each.ack_deadline_seconds]...)

  environment = merge(
    {
      GOOGLE_CLOUD_PROJECT = var.project
      GOOGLE_CLOUD_REGION  = var.region
      LEDGER_BUCKET        = var.buckets["ledger"]
      CONFIG_BUCKET        = var.buckets["config"]
      MODELS_BUCKET        = var.buckets["models"]

      # Cloud Run's two addresses of a service. The letters in the older one are made up with the service, hence the *;
      # Cloud Run itself compares exactly before it lets a token in, and takes its signature away.
      PUSH_AUDIENCES = join(",", [
        "https://${local.host}-${data.google_project.this.number}.${var.region}.run.app",
        "https://${local.host}-*.a.run.app",
      ])
      PUSH_SERVICE_ACCOUNTS   = google_service_account.caller.email
      CLOUD_RUN_CHECKS_TOKENS = "true"

      # A tick publishes what these have time for.
      REQUEST_SLOTS = tostring(var.concurrency * var.max_instances)

      # Cloud Storage's client asks for the metadata of a bucket at its first use and after each missing object, which no
      # account of ours may read and nothing needs.
      DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA = "true"
    },
    var.environment,
    var.secret_file == null ? {} : { (var.secret_file.variable) = "${local.secret_folder}/key" }
  )

  secret_folder = "/secrets"

  # People reach a service that has an HTTP interface from anywhere, with a token; everything else comes from inside:
  # Pub/Sub and Eventarc of the same project count as internal when they use the run.app address.
  is_internal = length(var.operators) == 0

  address = (
    local.is_function
    ? one(google_cloudfunctions2_function.function[*].service_config[0].uri)
    : one(google_cloud_run_v2_service.service[*].uri)
  )
  run_name = (
    local.is_function
    ? one(google_cloudfunctions2_function.function[*].name)
    : one(google_cloud_run_v2_service.service[*].name)
  )
}

resource "google_service_account" "runtime" {
  project      = var.project
  account_id   = local.host
  display_name = "Dual Deploy: ${var.name}"
}

resource "google_cloudfunctions2_function" "function" {
  count = local.is_function ? 1 : 0

  project     = var.project
  location    = var.region
  name        = local.host
  description = "Dual Deploy: ${var.name}"
  labels      = var.labels

  build_config {
    runtime           = "python311"
    entry_point       = "on_event"
    docker_repository = var.build.repository
    service_account   = var.build.service_account
    source {
      storage_source {
        bucket = var.build.source_bucket
        # The name holds the content: another package is another object, and the same one deploys nothing.
        object = var.source_object
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.runtime.email
    available_cpu                    = tostring(var.cpu)
    available_memory                 = var.memory
    max_instance_request_concurrency = var.concurrency
    min_instance_count               = 0
    max_instance_count               = var.max_instances
    timeout_seconds                  = local.timeout_seconds
    ingress_settings                 = local.is_internal ? "ALLOW_INTERNAL_ONLY" : "ALLOW_ALL"
    environment_variables            = local.environment
    all_traffic_on_latest_revision   = true
  }

  # A first event may only come once everything that the service needs is granted.
  depends_on = [google_storage_bucket_iam_member.access, google_project_iam_member.vertex]

  lifecycle {
    precondition {
      condition     = var.source_object != null && var.build != null
      error_message = "${var.name} is a function: give source_object (make deploy SERVICE=${var.name}) and build."
    }
  }
}

resource "google_cloud_run_v2_service" "service" {
  count = local.is_function ? 0 : 1

  project     = var.project
  location    = var.region
  name        = local.host
  description = "Dual Deploy: ${var.name}"
  labels      = var.labels
  ingress     = local.is_internal ? "INGRESS_TRAFFIC_INTERNAL_ONLY" : "INGRESS_TRAFFIC_ALL"
  # It keeps nothing: all that it knows is in the ledger.
  deletion_protection = false

  template {
    service_account                  = google_service_account.runtime.email
    timeout                          = "${local.timeout_seconds}s"
    max_instance_request_concurrency = var.concurrency

    scaling {
      min_instance_count = 0
      max_instance_count = var.max_instances
    }

    dynamic "volumes" {
      for_each = var.secret_file[*]

      content {
        name = "secret"
        secret {
          secret = volumes.value.secret
          items {
            path    = "key"
            version = "latest"
          }
        }
      }
    }

    containers {
      image = var.image

      resources {
        limits = {
          cpu    = tostring(var.cpu)
          memory = var.memory
        }
        # Processor time only while a request is answered: nothing runs, and costs, in between.
        cpu_idle          = true
        startup_cpu_boost = true
      }

      dynamic "volume_mounts" {
        for_each = var.secret_file[*]

        content {
          name       = "secret"
          mount_path = local.secret_folder
        }
      }

      dynamic "env" {
        for_each = local.environment

        content {
          name  = env.key
          value = env.value
        }
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30
        http_get {
          path = "/healthz"
        }
      }
    }
  }

  depends_on = [
    google_storage_bucket_iam_member.access,
    google_project_iam_member.vertex,
    google_secret_manager_secret_iam_member.reads_secret,
  ]

  lifecycle {
    precondition {
      condition     = var.image != null
      error_message = "${var.name} runs an image: give image, by digest."
    }
  }
}
