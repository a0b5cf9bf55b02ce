"""What runs by itself: deployments, `siftline up` and `down`, and the webhook receiver.

May import `flows.pipelines` and what stands below it.
"""
