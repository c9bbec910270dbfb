"""The messages of google.pubsub.v1 as plain protocol buffers.

The client library wraps each in proto-plus, whose attribute access is ten times slower and whose `update_mask`
cannot merge; a server that touches every message wants neither.
"""

from __future__ import annotations

from typing import Any

from google.pubsub_v1 import types

Topic: Any = types.Topic.pb()
Subscription: Any = types.Subscription.pb()
PubsubMessage: Any = types.PubsubMessage.pb()
ReceivedMessage: Any = types.ReceivedMessage.pb()
PushConfig: Any = types.PushConfig.pb()

UpdateTopicRequest: Any = types.UpdateTopicRequest.pb()
GetTopicRequest: Any = types.GetTopicRequest.pb()
ListTopicsRequest: Any = types.ListTopicsRequest.pb()
ListTopicsResponse: Any = types.ListTopicsResponse.pb()
ListTopicSubscriptionsRequest: Any = types.ListTopicSubscriptionsRequest.pb()
ListTopicSubscriptionsResponse: Any = types.ListTopicSubscriptionsResponse.pb()
DeleteTopicRequest: Any = types.DeleteTopicRequest.pb()
PublishRequest: Any = types.PublishRequest.pb()
PublishResponse: Any = types.PublishResponse.pb()
DetachSubscriptionRequest: Any = types.DetachSubscriptionRequest.pb()
DetachSubscriptionResponse: Any = types.DetachSubscriptionResponse.pb()

GetSubscriptionRequest: Any = types.GetSubscriptionRequest.pb()
UpdateSubscriptionRequest: Any = types.UpdateSubscriptionRequest.pb()
ListSubscriptionsRequest: Any = types.ListSubscriptionsRequest.pb()
ListSubscriptionsResponse: Any = types.ListSubscriptionsResponse.pb()
DeleteSubscriptionRequest: Any = types.DeleteSubscriptionRequest.pb()
ModifyPushConfigRequest: Any = types.ModifyPushConfigRequest.pb()
ModifyAckDeadlineRequest: Any = types.ModifyAckDeadlineRequest.pb()
AcknowledgeRequest: Any = types.AcknowledgeRequest.pb()
PullRequest: Any = types.PullRequest.pb()
PullResponse: Any = types.PullResponse.pb()
StreamingPullRequest: Any = types.StreamingPullRequest.pb()
StreamingPullResponse: Any = types.StreamingPullResponse.pb()
SeekRequest: Any = types.SeekRequest.pb()
SeekResponse: Any = types.SeekResponse.pb()
