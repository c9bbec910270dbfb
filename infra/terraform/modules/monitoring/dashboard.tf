# One page: do events flow, do services answer, what waits, what is said.

locals {
  charts = [
    {
      title  = "Events waiting, by subscription"
      filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" resource.type=\"pubsub_subscription\""
      align  = "ALIGN_MAX"
      group  = "resource.label.subscription_id"
    },
    {
      title  = "Oldest event waiting, seconds"
      filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" resource.type=\"pubsub_subscription\""
      align  = "ALIGN_MAX"
      group  = "resource.label.subscription_id"
    },
    {
      title  = "Answers of the services, by class"
      filter = "metric.type=\"run.googleapis.com/request_count\" resource.type=\"cloud_run_revision\""
      align  = "ALIGN_RATE"
      group  = "metric.label.response_code_class"
    },
    {
      title  = "Instances"
      filter = "metric.type=\"run.googleapis.com/container/instance_count\" resource.type=\"cloud_run_revision\""
      align  = "ALIGN_MAX"
      group  = "resource.label.service_name"
    },
    {
      title  = "Predictions, by deployed model"
      filter = "metric.type=\"aiplatform.googleapis.com/prediction/online/prediction_count\" resource.type=\"aiplatform.googleapis.com/Endpoint\""
      align  = "ALIGN_RATE"
      group  = "metric.label.deployed_model_id"
    },
  ]
}

resource "google_monitoring_dashboard" "overview" {
  project = var.project
  dashboard_json = jsonencode({
    displayName = "Dual Deploy"
    labels      = { for key, value in var.labels : key => value }
    gridLayout = {
      columns = "2"
      widgets = concat(
        [
          for chart in local.charts : {
            title = chart.title
            xyChart = {
              dataSets = [{
                plotType = "LINE"
                timeSeriesQuery = {
                  timeSeriesFilter = {
                    filter = chart.filter
                    aggregation = {
                      alignmentPeriod    = "60s"
                      perSeriesAligner   = chart.align
                      crossSeriesReducer = "REDUCE_SUM"
                      groupByFields      = [chart.group]
                    }
                  }
                }
              }]
            }
          }
        ],
        [{
          title = "What the services say"
          logsPanel = {
            filter        = local.our_logs
            resourceNames = ["projects/${var.project}"]
          }
        }]
      )
    }
  })
}
