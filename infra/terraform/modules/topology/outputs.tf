output "buckets" {
  description = "Buckets by what the product calls them."
  value       = local.topology.buckets
}

output "topics" {
  description = "Topics by name."
  value       = local.topology.topics
}

output "subscriptions" {
  description = "Subscriptions by name: push ones have a service and a path, pull ones have pull = true."
  value       = local.topology.subscriptions
}

output "schedules" {
  description = "Cloud Scheduler jobs by name."
  value       = local.topology.schedules
}

output "log_sinks" {
  description = "Cloud Logging sinks by name."
  value       = local.topology.log_sinks
}

output "services" {
  description = "Event services by name."
  value       = local.topology.services
}

output "ends" {
  description = "Announced ends of what everything stands on, by name: when to warn, and what to say."
  value       = local.topology.ends
}
