-- The two tables that the compressor works on. Names are not qualified: the search path says where they go.

CREATE TABLE videos (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    title text,
    url text,
    user_id uuid,
    status varchar(20) DEFAULT 'draft'
        CONSTRAINT videos_status_is_known CHECK (status IN ('draft', 'processing', 'published')),
    created_at timestamp DEFAULT localtimestamp,
    updated_at timestamp DEFAULT localtimestamp
);

-- Several rows for one quality of a video are allowed: every compression adds its own.
CREATE TABLE video_qualities (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    video_id uuid NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    quality varchar(20) NOT NULL
        CONSTRAINT video_qualities_quality_is_known CHECK (
            quality IN (
                '144p', '240p', '360p', '480p', '720p', '1080p', '1440p', '2160p', 'original'
            )
        ),
    url text NOT NULL,
    file_size bigint,
    bitrate integer,
    resolution_width integer,
    resolution_height integer,
    codec varchar(50),
    container varchar(20),
    duration integer,
    is_default boolean DEFAULT false,
    status varchar(20) DEFAULT 'processing'
        CONSTRAINT video_qualities_status_is_known CHECK (status IN ('processing', 'ready', 'failed')),
    fps numeric(10, 2),
    pixel_format varchar(20),
    color_space varchar(20),
    color_range varchar(20),
    audio_codec varchar(50),
    audio_bitrate integer,
    audio_sample_rate integer,
    audio_channels integer,
    aspect_ratio varchar(20),
    frame_count bigint,
    encoding_time integer,
    processing_started_at timestamp,
    processing_completed_at timestamp,
    created_at timestamp DEFAULT localtimestamp,
    updated_at timestamp DEFAULT localtimestamp
);

CREATE INDEX video_qualities_by_video ON video_qualities (video_id);

CREATE UNIQUE INDEX video_qualities_one_default_per_video ON video_qualities (video_id) WHERE is_default;

CREATE FUNCTION video_qualities_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := localtimestamp;
    RETURN NEW;
END
$$;

CREATE TRIGGER video_qualities_touched BEFORE UPDATE ON video_qualities
    FOR EACH ROW EXECUTE FUNCTION video_qualities_touch();
