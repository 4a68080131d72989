
fn decode_row_FORMAT(job: Job, row: u32, chunk: u32) -> Chunk {
    return decode_FORMAT(fetch_FORMAT(job.weights + row * job.stride, chunk, job.columns), chunk);
}
