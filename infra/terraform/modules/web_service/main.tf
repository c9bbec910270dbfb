# A service that people or apps reach and no event does: what runs, and as whom. What it may do stands in its own module.

locals {
  host = replace(var.name, "_", "-")
}

resource "google_service_account" "runtime" {
  project      = var.project
  account_id   = local.host
  display_name = "Dual Deploy: ${var.name}"
}

resource "google_cloud_run_v2_service" "service" {
  project     = var.project
  location    = var.region
  name        = local.host
  description = "Dual Deploy: ${var.name}"
  labels      = var.labels
  ingress     = "INGRESS_TRAFFIC_ALL"
  # Everybody may call a service that checks by itself who asks; all others let in who may invoke them.
  invoker_iam_disabled = var.checks_callers_itself
  # It keeps nothing: all that it knows is in the ledger.
  deletion_protection = false

  template {
    service_account                  = google_service_account.runtime.email
    timeout                          = "${var.timeout_seconds}s"
    max_instance_request_concurrency = var.concurrency

    scaling {
      min_instance_count = 0
      max_instance_count = var.max_instances
    }

    containers {
      image = var.image

      resources {
        limits = {
          cpu    = "1"
          memory = "512Mi"
        }
        # Processor time only while a request is answered: nothing runs, and costs, in between.
        cpu_idle          = true
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = merge({
          GOOGLE_CLOUD_PROJECT = var.project
          GOOGLE_CLOUD_REGION  = var.region
          LEDGER_BUCKET        = var.buckets["ledger"]

          # Cloud Storage's client asks for the metadata of a bucket, which no account of ours may read.
          DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA = "true"
        }, var.environment)

        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = var.secrets

        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
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

  # A version that may not read its secrets does not start.
  depends_on = [google_secret_manager_secret_iam_member.reads_secret]
}

# What it may read. To list is asked of the bucket, and an account that may not list is answered 403 for an object that
# is missing, not 404.
resource "google_storage_bucket_iam_member" "reads" {
  for_each = var.reads

  bucket = var.buckets[each.key]
  role   = "roles/storage.objectViewer"
  member = google_service_account.runtime.member

  dynamic "condition" {
    for_each = length(each.value) > 0 ? [each.value] : []

    content {
      title = "only-${join("-and-", [for prefix in condition.value : trimsuffix(prefix, "/")])}"
      expression = join(" || ", concat(
        ["resource.name == \"projects/_/buckets/${var.buckets[each.key]}\""],
        [
          for prefix in condition.value :
          "resource.name.startsWith(\"projects/_/buckets/${var.buckets[each.key]}/objects/${prefix}\")"
        ]
      ))
    }
  }
}

resource "google_secret_manager_secret_iam_member" "reads_secret" {
  for_each = var.secrets

  project   = var.project
  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.runtime.member
}

# Whoever deploys a new version must be allowed to act as the account that it runs as.
resource "google_service_account_iam_member" "releaser_acts" {
  count = length(var.releasers)

  service_account_id = google_service_account.runtime.id
  role               = "roles/iam.serviceAccountUser"
  member             = var.releasers[count.index]
}
