# Alerts for what nobody looks at otherwise: each says in its own text what it means and what to do.

module "topology" {
  source  = "../topology"
  project = var.project
  region  = var.region
}

locals {
  channels = [for channel in google_monitoring_notification_channel.email : channel.id]
  hosts    = [for name, each in module.topology.services : replace(name, "_", "-")]
  # Both Cloud Run functions and services log as revisions of a Cloud Run service.
  our_logs = join("\n", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=(${join(" OR ", [for host in local.hosts : "\"${host}\""])})",
  ])
  pushed           = [for name, each in module.topology.subscriptions : name if !lookup(each, "pull", false)]
  dead_letter_pull = one([for name, each in module.topology.subscriptions : name if each.topic == "dead-letters"])
  of_subscription  = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id"
  one_of_pushed    = "one_of(${join(", ", [for name in local.pushed : "\"${name}\""])})"
}

resource "google_monitoring_notification_channel" "email" {
  for_each = toset(var.alert_emails)

  project      = var.project
  display_name = "Dual Deploy: ${each.value}"
  type         = "email"
  user_labels  = var.labels
  labels = {
    email_address = each.value
  }
}

resource "google_monitoring_alert_policy" "dead_letters" {
  project               = var.project
  display_name          = "Dual Deploy: dead letters"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "A message was given up"
    condition_threshold {
      filter = join(" AND ", [
        "metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\"",
        "${local.of_subscription} = \"${local.dead_letter_pull}\"",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      A service refused an event until Pub/Sub gave it up. Look: `gcloud pubsub subscriptions pull ${local.dead_letter_pull}
      --limit 10` shows it with the subscription that it comes from, and the service's log at that time shows why. What
      training needs is not lost with it: the clock resumes every run that is under way.
    EOT
  }
}

resource "google_monitoring_alert_policy" "failed_runs" {
  project               = var.project
  display_name          = "Dual Deploy: a run failed or was rejected"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "A service says so in its log"
    condition_matched_log {
      filter = <<-EOT
        ${local.our_logs}
        (severity>=ERROR OR jsonPayload.message=~"^training failed:" OR jsonPayload.message=~"-> (failed|rejected)")
      EOT
      label_extractors = {
        run_id = "EXTRACT(jsonPayload.run_id)"
        reason = "EXTRACT(jsonPayload.message)"
      }
    }
  }

  # Required for alerts on logs: one mail in five minutes says enough.
  alert_strategy {
    notification_rate_limit {
      period = "300s"
    }
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      What serves goes on serving. The reason is in the log entry, and in the ledger: `gcloud storage cat
      gs://${module.topology.buckets.ledger.name}/runs/<run>/<cloud|mobile>/*.json`; events that were refused are under
      `rejected/`.
    EOT
  }
}

resource "google_monitoring_alert_policy" "rollbacks" {
  project               = var.project
  display_name          = "Dual Deploy: a model was rolled back"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "A service says so in its log"
    condition_matched_log {
      filter = <<-EOT
        ${local.our_logs}
        jsonPayload.message=~"-> rolled_back"
      EOT
      label_extractors = {
        run_id = "EXTRACT(jsonPayload.run_id)"
      }
    }
  }

  alert_strategy {
    notification_rate_limit {
      period = "300s"
    }
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      A new model did not stand its probes, or somebody asked for it: what served before serves again. Why, is in
      its newest release: `gcloud storage cat gs://${module.topology.buckets.ledger.name}/runs/<run>/cloud/release-*.json`.
    EOT
  }
}

resource "google_monitoring_alert_policy" "waiting_events" {
  project               = var.project
  display_name          = "Dual Deploy: events wait"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "The oldest event waits for half an hour"
    condition_threshold {
      filter = join(" AND ", [
        "metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\"",
        "${local.of_subscription} = ${local.one_of_pushed}",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 1800
      duration        = "300s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      A service does not take its events: it is down, it may not be called (roles/run.invoker of its caller), or Google
      answers it with errors. `gcloud run services logs read <service> --region ${var.region}` says which.
    EOT
  }
}

resource "google_monitoring_alert_policy" "clock_stopped" {
  project               = var.project
  display_name          = "Dual Deploy: the clock stands still"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "No tick for ten minutes"
    condition_absent {
      filter = join(" AND ", [
        "metric.type = \"pubsub.googleapis.com/topic/send_request_count\"",
        "resource.type = \"pubsub_topic\" AND resource.labels.topic_id = \"${module.topology.schedules.tick.topic}\"",
      ])
      duration = "600s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_DELTA"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      Without ticks nothing that waits is resumed: deployments under way, retries, quiet periods. Look at the job:
      `gcloud scheduler jobs describe dualdeploy-tick --location ${var.region}`.
    EOT
  }
}

# Ends that Google or Python have announced, from the topology: every plan warns of them, and so does `make doctor`.
locals {
  ends = module.topology.ends
}

check "firebase_ml_hosting" {
  assert {
    condition     = timecmp(plantimestamp(), local.ends.firebase_ml_hosting.warn_from) < 0
    error_message = local.ends.firebase_ml_hosting.text
  }
}

check "images_and_runtime" {
  assert {
    condition     = timecmp(plantimestamp(), local.ends.images_and_runtime.warn_from) < 0
    error_message = local.ends.images_and_runtime.text
  }
}
