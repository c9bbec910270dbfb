# Topics, the subscriptions that people and tools pull, the clock, and the log sink of training jobs. Push subscriptions
# belong to the services that answer them (modules/event_service): each service can be deployed and removed alone.

module "topology" {
  source  = "../topology"
  project = var.project
  region  = var.region
}

data "google_project" "this" {
  project_id = var.project
}

locals {
  pulled = { for name, each in module.topology.subscriptions : name => each if lookup(each, "pull", false) }
  dead_letter_topics = toset([
    for each in module.topology.subscriptions : each.dead_letter_policy.topic if can(each.dead_letter_policy)
  ])
  # Pub/Sub itself moves a message to the dead letters.
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_topic" "topic" {
  #checkov:skip=CKV_GCP_83:Messages name runs and objects and hold no data; whoever must hold the keys adds kms_key_name here
  for_each = module.topology.topics

  project = var.project
  name    = each.key
  labels  = var.labels

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

resource "google_pubsub_topic_iam_member" "pubsub_publishes_dead_letters" {
  for_each = local.dead_letter_topics

  project = var.project
  topic   = google_pubsub_topic.topic[each.value].name
  role    = "roles/pubsub.publisher"
  member  = local.pubsub_agent
}

resource "google_pubsub_subscription" "pulled" {
  for_each = local.pulled

  project              = var.project
  name                 = each.key
  topic                = google_pubsub_topic.topic[each.value.topic].id
  ack_deadline_seconds = each.value.ack_deadline_seconds
  filter               = lookup(each.value, "filter", null)
  labels               = var.labels

  message_retention_duration = "${lookup(each.value, "message_retention_seconds", 604800)}s"

  # Never: by default a subscription that nobody pulls for 31 days is deleted, with all that waits in it.
  expiration_policy {
    ttl = ""
  }
}

resource "google_cloud_scheduler_job" "schedule" {
  for_each = module.topology.schedules

  project     = var.project
  region      = var.region
  name        = "dualdeploy-${each.key}"
  description = "Lets every service resume what waits"
  schedule    = each.value.cron
  time_zone   = "Etc/UTC"

  pubsub_target {
    topic_name = google_pubsub_topic.topic[each.value.topic].id
    data       = base64encode(jsonencode(each.value.data))
  }
}

# A hint that a training job ended, and no more: job_notifier asks Vertex AI. The texts are what jobs log today, as text
# or as JSON; no page of Google's promises them. A user's line can say the same, hence only the service's own task.
resource "google_logging_project_sink" "sink" {
  for_each = module.topology.log_sinks

  project                = var.project
  name                   = "dualdeploy-${each.key}"
  description            = "Ends of Vertex AI training jobs, for job_notifier"
  destination            = "pubsub.googleapis.com/${google_pubsub_topic.topic[each.value.topic].id}"
  unique_writer_identity = true
  filter                 = join("\n", each.value.filter)
}

resource "google_pubsub_topic_iam_member" "sink_publishes" {
  for_each = module.topology.log_sinks

  project = var.project
  topic   = google_pubsub_topic.topic[each.value.topic].name
  role    = "roles/pubsub.publisher"
  member  = google_logging_project_sink.sink[each.key].writer_identity
}
