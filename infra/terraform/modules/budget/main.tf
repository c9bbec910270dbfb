# A budget for the project, which tells when it is used up and before. It has channels of its own: alerts may be off.

locals {
  # A budget takes no more.
  # Source: https://docs.cloud.google.com/billing/docs/reference/budget/rest/v1/billingAccounts.budgets
  emails = toset(slice(var.alert_emails, 0, min(5, length(var.alert_emails))))
}

data "google_project" "this" {
  project_id = var.project
}

resource "google_project_service" "api" {
  project            = var.project
  service            = "billingbudgets.googleapis.com"
  disable_on_destroy = false
}

resource "google_monitoring_notification_channel" "email" {
  for_each = local.emails

  project      = var.project
  display_name = "Dual Deploy's budget: ${each.value}"
  type         = "email"
  user_labels  = var.labels
  labels = {
    email_address = each.value
  }
}

resource "google_billing_budget" "month" {
  billing_account = var.billing_account
  display_name    = "Dual Deploy: ${var.project}"

  budget_filter {
    projects = ["projects/${data.google_project.this.number}"]
  }

  amount {
    specified_amount {
      # In the account's own currency: naming another one is refused.
      units = tostring(var.monthly_budget)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]

    content {
      threshold_percent = threshold_rules.value
    }
  }
  threshold_rules {
    threshold_percent = 1.2
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
    # Whoever pays hears of it too.
    disable_default_iam_recipients = false
  }

  depends_on = [google_project_service.api]
}
