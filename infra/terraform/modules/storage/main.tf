# The buckets of the topology and what they tell: uniform access, never public, never emptied by accident.

module "topology" {
  source  = "../topology"
  project = var.project
  region  = var.region
}

# Cloud Storage publishes its notifications as this account.
data "google_storage_project_service_account" "agent" {
  project = var.project
}

locals {
  # Data: a training job reads the exact generations of its snapshot, also when a shard is overwritten meanwhile.
  # Configuration, ledger, and what phones are pointed at: whatever was changed can be read as it was before.
  # Artifacts are written once.
  unversioned = toset(["models"])

  # The topology has a lifecycle for each bucket, in days. How long runs are kept, every project says for itself.
  rules = {
    for key, bucket in module.topology.buckets : key => concat(
      lookup(bucket, "lifecycle", []),
      key != "models" || var.delete_runs_after_days == null ? [] : [
        { action = "Delete", age = var.delete_runs_after_days, prefixes = ["runs/", "results/"] }
      ]
    )
  }

  notifications = merge([
    for key, bucket in module.topology.buckets : {
      for notification in lookup(bucket, "notifications", []) :
      "${key}-${notification.topic}" => merge(notification, { bucket = key })
    }
  ]...)
}

resource "google_storage_bucket" "bucket" {
  #checkov:skip=CKV_GCP_78:Versions are kept but of the models bucket, where every artifact is written once under a name of its own
  #checkov:skip=CKV_GCP_62:Cloud Audit Logs tell who read or changed what; usage logs would need a bucket of their own
  for_each = module.topology.buckets

  project                     = var.project
  name                        = each.value.name
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.delete_data
  labels                      = var.labels

  versioning {
    enabled = !contains(local.unversioned, each.key)
  }

  # A page in a browser reads what phones read only where the bucket says so; phones themselves need no such rule.
  dynamic "cors" {
    for_each = each.key == "firebase_storage" && length(var.browser_origins) > 0 ? [var.browser_origins] : []

    content {
      origin          = cors.value
      method          = ["GET"]
      response_header = ["Content-Type"]
      max_age_seconds = 3600
    }
  }

  # Where versions are kept, soft deletion would keep, and bill, every one of them for another week.
  soft_delete_policy {
    retention_duration_seconds = each.key == "ledger" ? 0 : 604800
  }

  dynamic "lifecycle_rule" {
    for_each = local.rules[each.key]

    content {
      action {
        type          = lifecycle_rule.value.action
        storage_class = lookup(lifecycle_rule.value, "storage_class", null)
      }
      condition {
        age                        = lookup(lifecycle_rule.value, "age", null)
        days_since_noncurrent_time = lookup(lifecycle_rule.value, "noncurrent_days", null)
        num_newer_versions         = lookup(lifecycle_rule.value, "newer_versions", null)
        matches_prefix             = lookup(lifecycle_rule.value, "prefixes", null)
      }
    }
  }

  # What an interrupted upload left behind is seen by nobody and billed all the same.
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }
}

resource "google_pubsub_topic_iam_member" "storage_publishes" {
  for_each = local.notifications

  project = var.project
  topic   = var.topics[each.value.topic]
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.agent.member
}

# Cloud Storage checks at once that it may publish.
resource "google_storage_notification" "notification" {
  for_each = local.notifications

  bucket             = google_storage_bucket.bucket[each.value.bucket].name
  topic              = var.topics[each.value.topic]
  payload_format     = "JSON_API_V1"
  event_types        = each.value.event_types
  object_name_prefix = each.value.object_name_prefix

  depends_on = [google_pubsub_topic_iam_member.storage_publishes]
}
