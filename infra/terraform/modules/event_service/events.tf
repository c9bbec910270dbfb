# What reaches the service: push subscriptions and Eventarc triggers, all as one caller who may do nothing else.

locals {
  # Pub/Sub itself takes a message that was refused too often out of the subscription.
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_service_account" "caller" {
  project      = var.project
  account_id   = "${local.host}-caller"
  display_name = "Dual Deploy: delivers events to ${var.name}"
}

resource "google_cloud_run_v2_service_iam_member" "caller" {
  project  = var.project
  location = var.region
  name     = local.run_name
  role     = "roles/run.invoker"
  member   = google_service_account.caller.member
}

resource "google_cloud_run_v2_service_iam_member" "operator" {
  for_each = toset(var.operators)

  project  = var.project
  location = var.region
  name     = local.run_name
  role     = "roles/run.invoker"
  member   = each.value

  lifecycle {
    precondition {
      condition     = !contains(["allUsers", "allAuthenticatedUsers"], each.value)
      error_message = "Whoever may call this service may replace a model: name users, groups or service accounts."
    }
  }
}

resource "google_pubsub_subscription" "pushed" {
  for_each = local.subscriptions

  project              = var.project
  name                 = each.key
  topic                = var.topics[each.value.topic]
  filter               = lookup(each.value, "filter", null)
  ack_deadline_seconds = each.value.ack_deadline_seconds
  labels               = var.labels

  message_retention_duration = "${lookup(each.value, "message_retention_seconds", 604800)}s"

  push_config {
    push_endpoint = "${local.address}${each.value.path}"
    oidc_token {
      service_account_email = google_service_account.caller.email
      audience              = local.address
    }
  }

  retry_policy {
    minimum_backoff = "${each.value.retry_policy.minimum_backoff_seconds}s"
    maximum_backoff = "${each.value.retry_policy.maximum_backoff_seconds}s"
  }

  dynamic "dead_letter_policy" {
    for_each = can(each.value.dead_letter_policy) ? [each.value.dead_letter_policy] : []
    content {
      dead_letter_topic     = var.topics[dead_letter_policy.value.topic]
      max_delivery_attempts = dead_letter_policy.value.max_delivery_attempts
    }
  }

  # Never: by default a subscription without traffic for 31 days is deleted.
  expiration_policy {
    ttl = ""
  }

  depends_on = [google_cloud_run_v2_service_iam_member.caller]
}

resource "google_pubsub_subscription_iam_member" "pubsub_takes_dead_letters" {
  for_each = { for name, each in local.subscriptions : name => each if can(each.dead_letter_policy) }

  project      = var.project
  subscription = google_pubsub_subscription.pushed[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# --- Eventarc ------------------------------------------------------------------------------------------------

data "google_storage_project_service_account" "agent" {
  count   = length(local.triggers) > 0 ? 1 : 0
  project = var.project
}

# Eventarc makes a topic of its own for each trigger, whose name nobody knows before: hence on the project.
resource "google_project_iam_member" "storage_publishes_events" {
  count = length(local.triggers) > 0 ? 1 : 0

  project = var.project
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.agent[0].member
}

resource "google_project_iam_member" "caller_receives_events" {
  count = length(local.triggers) > 0 ? 1 : 0

  project = var.project
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.caller.member
}

resource "google_eventarc_trigger" "trigger" {
  for_each = local.triggers

  project         = var.project
  location        = var.region
  name            = each.key
  service_account = google_service_account.caller.email
  labels          = var.labels

  matching_criteria {
    attribute = "type"
    value     = each.value.event
  }
  # Eventarc cannot filter by object name: the service ignores what is no shard.
  matching_criteria {
    attribute = "bucket"
    value     = each.value.bucket
  }

  destination {
    cloud_run_service {
      service = local.run_name
      region  = var.region
      path    = each.value.path
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.caller,
    google_project_iam_member.caller_receives_events,
    google_project_iam_member.storage_publishes_events,
  ]
}
