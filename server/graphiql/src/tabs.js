// The example tabs: a question each, as people ask it.
export const tabs = [
  {
    query: `# Which models are there? The newest first.
query Models {
  models(first: 20, orderBy: NEWEST_FIRST) {
    totalCount
    nodes { name version digest evidence recordedAt metrics }
    pageInfo { hasNextPage endCursor }
  }
}
`,
  },
  {
    query: `# What was this model made from, and who says so?
# Write a model of yours below, under Variables.
query Lineage($model: String!) {
  lineage(ref: $model) {
    name
    size
    edges {
      depth
      relation
      role
      evidence
      from { kind name digest }
      to { kind name digest uri }
      step { name started }
    }
    steps { name run argv parameters metrics }
  }
}
`,
    variables: '{ "model": "forecast" }',
  },
  {
    query: `# Why do two versions differ? Causes first.
query Why($left: String!, $right: String!) {
  diff(left: $left, right: $right) {
    same
    leftMetrics
    rightMetrics
    differences { kind name left right cause depth }
  }
}
`,
    variables: '{ "left": "forecast@1", "right": "forecast@2" }',
  },
  {
    query: `# What does a commit, an image or a file reach, and does it run?
query Impact($ref: String!) {
  impact(ref: $ref, first: 50) {
    totalCount
    nodes { name running since until claimed depth }
  }
}
`,
    variables: '{ "ref": "forecast" }',
  },
  {
    query: `# What stands in the way of restoring it? And a proof of the answer, which
# "retrace verify" checks offline.
query Gaps($model: String!) {
  gaps(ref: $model) {
    score
    gaps { severity rule explain remedy detail }
  }
  lineage(ref: $model) { proof }
}
`,
    variables: '{ "model": "forecast" }',
  },
  {
    query: `# What ran where last Tuesday at 14:00? Write a time below.
query Then($at: Time) {
  workloads(at: $at) {
    nodes { name at image { name digest } model { name uri digest } entry { index evidence } }
  }
}
`,
    variables: '{ "at": null }',
  },
  {
    query: `# What is recorded, as it is recorded.
subscription Recorded {
  entries { index recordedAt predicateType summary evidence }
}
`,
  },
];
